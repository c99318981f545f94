//! `photo-api`: serves the application.

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use howdah::{Cluster, Config};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use photo_api::gallery::GALLERY;
use photo_api::store::Store;
use photo_api::{App, app, import, migrations, ops, sweep};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// How long requests that are under way may take to finish once the server was told to stop. Whoever told it ends it by
/// force after 30 s (Kubernetes, `make demo`); an upload that takes longer can be sent again.
const LAST_REQUESTS: Duration = Duration::from_secs(25);

/// How often what was measured is summed up, so that it does not pile up between two looks.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often files are looked for that should be gone. Hardly ever are there any, and they take nothing but space.
const SWEEP: Duration = Duration::from_secs(60 * 60);

/// What the people of the gallery log in with.
const DEMO_PASSWORD: &str = "howdah-demo";

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
    /// Bring in a folder of pictures, a person for each of its folders; again adds only what is new
    #[command(after_help = "Example: photo-api import ~/Pictures --password 'long enough'")]
    Import(Import),
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
    /// The port of /metrics and /ops [default: the one after --port]
    #[arg(long, value_name = "PORT")]
    ops_port: Option<u16>,
    /// The address where these are, for operators alone
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    ops_host: IpAddr,
    /// How long a request waits for a connection before it is answered with 503, in milliseconds; it stands in
    /// for the configuration's `queue_timeout` and `connect_timeout`
    #[arg(long, default_value_t = 800, value_name = "MS")]
    patience_ms: u64,
    /// How long /readyz says 503 before the server stops listening, in seconds
    #[arg(long, default_value_t = 0, value_name = "S")]
    drain_s: u64,
    /// Fill it with pictures that this program draws, and with people who post them
    #[arg(long)]
    demo: bool,
}

impl Serve {
    /// The one given, else the one after the server's; of a port that the system chooses, another such.
    fn port_for_operators(&self) -> Result<u16> {
        match (self.ops_port, self.port) {
            (Some(given), _) => Ok(given),
            (None, 0) => Ok(0),
            (None, port) => port.checked_add(1).ok_or_else(|| {
                format!("no port comes after {port} for /ops and /metrics; choose an --ops-port")
                    .into()
            }),
        }
    }
}

#[derive(Args)]
struct Import {
    /// The folder of pictures
    folder: PathBuf,
    #[command(flatten)]
    place: Place,
    /// What new people log in with; without it nobody can log in as them
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,
    /// Tell where the pictures were taken, where the camera wrote it down
    #[arg(long)]
    positions: bool,
    /// Let the people not follow one another, nor like and comment on what is new
    #[arg(long)]
    strangers: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    let done = match cli.command {
        Some(Command::Serve(serve)) => run(serve).await,
        Some(Command::Import(import)) => bring_in(import).await,
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

async fn bring_in(import: Import) -> Result<()> {
    let Import { folder, place, password, positions, strangers } = import;
    let app = place.open(place.config()?).await?;
    let options = import::Options { password, positions, strangers };
    tell(import::folder(&app, &folder, &options).await?)
}

/// Runs beside the server, so that there is something to see at once. What is cut off comes with the next start.
async fn fill(app: App) {
    let password = Some(DEMO_PASSWORD.to_owned());
    let options = import::Options { password, ..import::Options::default() };
    if let Err(error) = tell(import::gallery(&app, &options).await) {
        tracing::error!("{error}");
    }
}

/// Removes what an earlier run left behind, and what this one does.
async fn keep_swept(app: App) {
    loop {
        match sweep(&app).await {
            0 => {}
            removed => tracing::info!("{removed} files were removed that no photo has"),
        }
        tokio::time::sleep(SWEEP).await;
    }
}

/// Says what came of an import; what is worth another try is an error.
fn tell(report: import::Report) -> Result<()> {
    let import::Report { added, known, refused, failed } = report;
    for (name, why) in &refused {
        tracing::warn!("{name} is left out: {why}");
    }
    for (name, why) in &failed {
        tracing::error!("{name} did not come in: {why}");
    }
    tracing::info!("{added} pictures added, {known} were there, {} left out", refused.len());
    match failed.len() {
        0 => Ok(()),
        failed => {
            Err(format!("{failed} pictures did not come in; run it again to add them").into())
        }
    }
}

/// Serves the operators. Where they did not say which port, another program may have it: then there is nothing to see.
async fn serve_operators(serve: &Serve, app: App, metrics: PrometheusHandle) -> Result<()> {
    let address = SocketAddr::new(serve.ops_host, serve.port_for_operators()?);
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) if serve.ops_port.is_none() => {
            tracing::warn!(
                "cannot listen on {address}: {error}; /ops and /metrics want an --ops-port"
            );
            return Ok(());
        }
        Err(error) => return Err(format!("cannot listen on {address}: {error}").into()),
    };
    tracing::info!("operators look at http://{}/ops", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, ops(app, metrics)).into_future());
    Ok(())
}

/// Everything is measured whether or not somebody looks, so it is summed up whether or not somebody can.
async fn sum_up(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        metrics.run_upkeep();
    }
}

async fn run(serve: Serve) -> Result<()> {
    // Before the cluster is connected to, or its first numbers would be lost.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    tokio::spawn(sum_up(metrics.clone()));
    // A port that cannot be is said before anything is waited for.
    serve.port_for_operators()?;
    let patience = Duration::from_millis(serve.patience_ms);
    // A connection is tried for twice its timeout.
    let config = serve.place.config()?.queue_timeout(patience).connect_timeout(patience / 2);
    let state = serve.place.open(config).await?;

    let address = SocketAddr::new(serve.host, serve.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}; choose another --port"))?;
    tracing::info!("serving on http://{}", listener.local_addr()?);
    serve_operators(&serve, state.clone(), metrics).await?;
    tokio::spawn(keep_swept(state.clone()));
    if let (true, Some(artist)) = (serve.demo, GALLERY.first()) {
        tracing::info!("log in as {} with the password {DEMO_PASSWORD}", artist.name);
        tokio::spawn(fill(state.clone()));
    }

    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app(state.clone())).with_graceful_shutdown(async {
        // An error says that the other end is gone, which is as good a reason.
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());

    told_to_stop().await?;
    tracing::info!("stopping");
    state.drain();
    tokio::select! {
        ended = wind_down(&serve, stop, server) => ended,
        interrupted = interrupted_again() => Ok(interrupted?),
    }
}

/// Lets requests that are under way finish. That some do not is part of a routine stop, not a failure of it.
async fn wind_down(
    serve: &Serve,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(serve.drain_s)).await;
    drop(stop);
    match tokio::time::timeout(LAST_REQUESTS, server).await {
        Ok(ended) => Ok(ended??),
        Err(_) => {
            tracing::warn!("some requests took longer than {LAST_REQUESTS:?} and are cut off");
            Ok(())
        }
    }
}

/// Who presses Ctrl-C twice does not want to wait. Not so for SIGTERM: `make demo` sends it after the first Ctrl-C.
async fn interrupted_again() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await?;
    tracing::warn!("interrupted again: requests that are under way are cut off");
    Ok(())
}

async fn told_to_stop() -> std::io::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}
