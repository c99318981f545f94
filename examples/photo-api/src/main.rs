//! `photo-api`: serves the application.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use howdah::{Cluster, Config};
use photo_api::store::Store;
use photo_api::{App, app, migrations};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// How long requests that are under way may take to finish once the server was told to stop.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// Migrations at once on each instance.
const PARALLEL: usize = 8;

/// Photo sharing over many PostgreSQL servers: the reference application of howdah.
#[derive(Parser)]
#[command(
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    after_help = "Example: photo-api serve --config howdah.toml --media pictures --migrate"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API and the pages (what happens without a command, too)
    #[command(args_override_self = true)]
    Serve(Serve),
}

/// Where the data lies.
#[derive(Args)]
struct Place {
    /// The cluster's configuration [default: howdah.toml, then .howdah/howdah.toml]
    #[arg(long, env = "HOWDAH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of the pictures
    #[arg(long, default_value = ".howdah/media", value_name = "DIR")]
    media: PathBuf,
    /// Apply the migrations first
    #[arg(long)]
    migrate: bool,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    place: Place,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// The port to listen on
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// How long a request waits for a server before it is answered with 503, in milliseconds; it stands in for
    /// the configuration's `queue_timeout` and `connect_timeout`
    #[arg(long, default_value_t = 800, value_name = "MS")]
    patience_ms: u64,
    /// How long /readyz says 503 before the server stops listening, in seconds
    #[arg(long, default_value_t = 0, value_name = "S")]
    drain_s: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let done = match cli.command {
        Some(Command::Serve(serve)) => run(serve).await,
        None => run(cli.serve).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Place {
    fn config(&self) -> howdah::Result<Config> {
        match &self.config {
            Some(file) => Config::from_file(file),
            None => Config::load(),
        }
    }

    async fn open(&self, config: Config) -> Result<App> {
        if self.migrate {
            migrate(&config).await?;
        }
        Ok(App::new(Cluster::connect(config).await?, Store::folder(&self.media)?))
    }
}

async fn migrate(config: &Config) -> Result<()> {
    let report = migrations()?.up(config, PARALLEL, |_| {}).await?;
    let failed = report.failed().filter_map(|shard| Some((shard.home().shard(), shard.error()?)));
    for (shard, error) in failed {
        tracing::error!("shard {shard} stays behind: {error}");
    }
    match report.failed().count() {
        0 => Ok(()),
        failed => Err(format!("the migrations failed on {failed} shards").into()),
    }
}

async fn run(serve: Serve) -> Result<()> {
    let patience = Duration::from_millis(serve.patience_ms);
    let config = serve.place.config()?.queue_timeout(patience).connect_timeout(patience);
    let state = serve.place.open(config).await?;

    let address = SocketAddr::new(serve.host, serve.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}; choose another --port"))?;
    tracing::info!("serving on http://{}", listener.local_addr()?);

    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, app(state.clone())).with_graceful_shutdown(async {
        // An error says that the other end is gone, which is as good a reason.
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());

    told_to_stop().await?;
    tracing::info!("stopping");
    state.drain();
    tokio::time::sleep(Duration::from_secs(serve.drain_s)).await;
    drop(stop);
    match tokio::time::timeout(LAST_REQUESTS, server).await {
        Ok(ended) => Ok(ended??),
        Err(_) => Err("some requests took too long and were cut off".into()),
    }
}

async fn told_to_stop() -> std::io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}
