//! A folder of servers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures_util::future::{join_all, try_join_all};

use super::place::{self, Annex, Place};
use super::server::check_name;
use super::state::State;
use super::{Account, Binaries, Lock, Server, ServerRole, folders, port, process};
use crate::{Error, Result};

/// The most servers of a kind that one `up` makes: more is a slip of the finger on one machine.
const MOST: usize = 64;

/// What [`LocalCluster::up`] makes.
#[derive(Debug, Clone)]
pub struct UpOptions {
    instances: usize,
    replicas: usize,
    pg_bin: Option<PathBuf>,
    durable: bool,
    templates: Option<PathBuf>,
}

impl Default for UpOptions {
    fn default() -> Self {
        Self { instances: 2, replicas: 0, pg_bin: None, durable: true, templates: None }
    }
}

impl UpOptions {
    /// How many primaries there shall be, `pg1` on; 2 by default. Those that are there already stay.
    #[must_use]
    pub fn instances(mut self, count: usize) -> Self {
        self.instances = count;
        self
    }

    /// How many streaming replicas each of them shall have; none by default.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// The folder of PostgreSQL's programs for servers that are still to be made; by default they are
    /// [found](Binaries::find).
    #[must_use]
    pub fn pg_bin(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pg_bin = Some(folder.into());
        self
    }

    /// Whether data must survive a power failure, as by default. Without, a server is faster and its data is
    /// lost with the machine's next crash; fit for tests. Decided once, when the cluster is made.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// A folder in which data folders are kept to be copied, and from which they are copied.
    pub(crate) fn templates(mut self, folder: PathBuf) -> Self {
        self.templates = Some(folder);
        self
    }
}

/// A folder of PostgreSQL servers on this machine, for development.
///
/// Servers listen on 127.0.0.1 and in a socket folder of their own, and trust whoever comes from this machine.
/// They are processes of their own that go on when this one ends. Everything here may be called by several
/// processes at once, and again after any interruption. Run by root, servers run in the account `postgres`,
/// or else `nobody`.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> howdah::Result<()> {
/// use howdah::local::{LocalCluster, UpOptions};
///
/// let mut cluster = LocalCluster::open(".howdah")?;
/// cluster.up(&UpOptions::default().instances(2).replicas(1)).await?;
/// for server in cluster.servers() {
///     println!("{} {:?} {}", server.name(), server.role(), server.dsn("howdah_app"));
/// }
/// cluster.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LocalCluster {
    dir: PathBuf,
    account: Account,
    /// What the folder said last; nothing as long as it holds no cluster.
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    place: Place,
    durable: bool,
    servers: Vec<Server>,
}

impl LocalCluster {
    /// The cluster of a folder, which may have none yet. Changes nothing.
    ///
    /// # Errors
    ///
    /// When what the folder remembers cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = std::path::absolute(dir.as_ref())
            .map_err(|error| Error::system("cannot tell the current folder").because(error))?;
        let dir = dir.canonicalize().unwrap_or(dir);
        let mut cluster = Self { dir, account: Account::for_servers()?, made: None };
        cluster.read()?;
        Ok(cluster)
    }

    /// The cluster's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether there is a cluster in the folder.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.made.is_some()
    }

    /// The servers, in the order in which they were made.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        self.made.as_ref().map_or(&[], |made| &made.servers)
    }

    /// One server.
    ///
    /// # Errors
    ///
    /// When there is none of this name.
    pub fn server(&self, name: &str) -> Result<&Server> {
        self.servers().iter().find(|server| server.name == name).ok_or_else(|| {
            let names: Vec<_> = self.servers().iter().map(Server::name).collect();
            let there = if names.is_empty() { "none".into() } else { names.join(", ") };
            Error::input(format!("there is no server {name:?} in {}", self.dir.display()))
                .hint(format!("there are: {there}"))
        })
    }

    /// Makes the servers that are missing and starts those that do not run, but for one that has a
    /// [successor](Self::successor). Again, it changes nothing; after an interruption, it finishes what was begun.
    ///
    /// # Errors
    ///
    /// [Refused](Error::is_refused) where the folder holds no cluster and something of somebody else's is where one would
    /// be. When there are no usable binaries, or a server cannot be made or started: its name and the reason.
    pub async fn up(&mut self, options: &UpOptions) -> Result<()> {
        if !(1..=MOST).contains(&options.instances) || options.replicas > MOST {
            return Err(Error::input(format!(
                "{} instances with {} replicas each",
                options.instances, options.replicas
            ))
            .hint(format!("from 1 to {MOST} instances with up to {MOST} replicas are possible")));
        }
        self.dir = place::make_dir(&self.dir)?;
        let _lock = self.lock().await?;
        if self.made.is_none() {
            self.begin(options.durable).await?;
        }

        let wanted = (1..=options.instances).map(|n| format!("pg{n}"));
        self.make_primaries(wanted.collect(), options).await?;
        self.start_all().await?;

        for instance in 1..=options.instances {
            let primary = format!("pg{instance}");
            let wanted = (1..=options.replicas).map(|n| format!("{primary}-r{n}"));
            self.make_replicas(&primary, wanted.collect()).await?;
        }
        self.start_all().await
    }

    /// Makes and starts one more primary, with the binaries of a folder or those that are
    /// [found](Binaries::find): so a cluster may have servers of several versions.
    ///
    /// # Errors
    ///
    /// When there is a server of this name, there is no cluster yet, or it cannot be made.
    pub async fn add(&mut self, name: &str, pg_bin: Option<&Path>) -> Result<()> {
        check_name(name)?;
        let _lock = self.lock_made().await?;
        if self.server(name).is_ok() {
            return Err(Error::refused("there is a server of this name already").at(name));
        }
        let options = UpOptions { pg_bin: pg_bin.map(Path::to_owned), ..UpOptions::default() };
        self.make_primaries(vec![name.to_owned()], &options).await?;
        self.start_these(|server| server.name == name).await
    }

    /// The replica of a server that was promoted in its place. Started again, both would take writes, so it has to be asked for
    /// by its name.
    #[must_use]
    pub fn successor(&self, name: &str) -> Option<&Server> {
        let is_promoted = |server: &&Server| server.role() == ServerRole::Primary;
        self.servers()
            .iter()
            .filter(|server| server.name != name && server.instance() == name)
            .find(is_promoted)
    }

    /// Starts one server, or all but those that have a [successor](Self::successor).
    ///
    /// # Errors
    ///
    /// When there is none of this name, or one cannot start; the others are started all the same.
    pub async fn start(&mut self, name: Option<&str>) -> Result<()> {
        let _lock = self.lock_made().await?;
        let Some(name) = name else { return self.start_all().await };
        self.server(name)?;
        self.start_these(|server| server.name == name).await
    }

    /// Stops all servers; their data stays.
    ///
    /// # Errors
    ///
    /// When one does not end in time.
    pub async fn stop(&mut self) -> Result<()> {
        let _lock = self.lock_made().await?;
        let mut stopped = Vec::new();
        // Primaries first: one that ends waits until its replicas have everything.
        for role in [ServerRole::Primary, ServerRole::Replica] {
            let servers = self.servers().iter().filter(|server| server.role() == role);
            stopped.extend(join_all(servers.map(Server::stop)).await);
        }
        stopped.into_iter().collect()
    }

    /// Ends all processes of a server with SIGKILL, as a power failure would.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it belongs to somebody else.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let _lock = self.lock_made().await?;
        self.server(name)?.kill().await
    }

    /// Halts all processes of a server with SIGSTOP: like one that hangs, it keeps its connections and answers nothing.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it does not run.
    pub async fn suspend(&mut self, name: &str) -> Result<()> {
        let _lock = self.lock_made().await?;
        self.server(name)?.suspend().await
    }

    /// Lets a server go on that was suspended.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it does not run.
    pub async fn resume(&mut self, name: &str) -> Result<()> {
        let _lock = self.lock_made().await?;
        self.server(name)?.resume().await
    }

    /// Makes a replica a primary. What it followed is left alone: as in a real failover, it is the caller who
    /// must see to it that the old primary is dead.
    ///
    /// # Errors
    ///
    /// When it is a primary already, or does not run.
    pub async fn promote(&mut self, name: &str) -> Result<()> {
        let _lock = self.lock_made().await?;
        self.server(name)?.promote().await
    }

    /// Ends all servers and deletes them and all that this module made in the folder, and the folder itself if
    /// nothing else is in it.
    ///
    /// # Errors
    ///
    /// When the folder holds no cluster, or something cannot be deleted; calling it again goes on.
    pub async fn destroy(mut self) -> Result<()> {
        let _lock = self.lock_made().await?;
        let Some(made) = &self.made else { return Ok(()) };
        let removed = join_all(made.servers.iter().map(Server::remove)).await;
        removed.into_iter().collect::<Result<()>>()?;
        folders::remove_folder(&made.place.servers()).await?;
        folders::remove_folder(&made.place.sockets()).await?;
        if let Some(annex) = made.place.annex() {
            folders::remove_folder(&annex.path).await?;
        }
        // The mark of a cluster goes last, so that an interrupted destruction can be repeated.
        for file in [self.state_file(), self.dir.join(LOCK)] {
            fs::remove_file(&file).map_err(|error| {
                Error::system(format!("cannot delete {}", file.display())).because(error)
            })?;
        }
        // It stays when there is anything else in it.
        let _ = fs::remove_dir(&self.dir);
        Ok(())
    }

    fn state_file(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    async fn lock(&mut self) -> Result<Lock> {
        let lock = Lock::take(&self.dir.join(LOCK)).await?;
        self.read()?;
        Ok(lock)
    }

    /// The lock of a folder that holds a cluster.
    async fn lock_made(&mut self) -> Result<Lock> {
        let nothing = || {
            Error::config(format!("there is no local cluster in {}", self.dir.display()))
                .hint("`howdah local up` makes one")
        };
        if !self.state_file().exists() {
            return Err(nothing());
        }
        let missing = nothing();
        let lock = self.lock().await?;
        if self.made.is_none() { Err(missing) } else { Ok(lock) }
    }

    fn read(&mut self) -> Result<()> {
        self.made = State::load(&self.state_file())?.map(|state| {
            let place = Place::remembered(&self.dir, state.annex);
            let servers = state.servers.into_iter().map(|server| {
                let mut server = Server {
                    folder: place.servers().join(&server.name),
                    sockets: place.sockets(),
                    durable: state.durable,
                    account: self.account.clone(),
                    name: server.name,
                    port: server.port,
                    bin: server.bin,
                    follows: server.follows,
                };
                // It may have been started on another port by somebody who was then interrupted.
                let running = process::postmaster(&server.data_dir());
                server.port = running.and_then(|running| running.port).unwrap_or(server.port);
                server
            });
            Made { servers: servers.collect(), durable: state.durable, place }
        });
        Ok(())
    }

    fn save(&self) -> Result<()> {
        let Some(made) = &self.made else { return Ok(()) };
        let servers = made.servers.iter().map(Server::remember).collect();
        State::new(made.durable, made.place.annex().cloned(), servers).save(&self.state_file())
    }

    /// Whatever has the name of a file of ours is deleted with the cluster, so it must not be there before one is made.
    fn refuse_if_taken(&self) -> Result<()> {
        let (place, lock) = (Place::remembered(&self.dir, None), self.dir.join(LOCK));
        let ours = [place.servers(), place.sockets(), lock.clone()];
        let Some(taken) = ours.iter().find(|path| folders::holds_something(path)) else {
            return Ok(());
        };
        // The one that we made to come here.
        if !folders::holds_something(&lock) {
            let _ = fs::remove_file(&lock);
        }
        Err(Error::refused(format!("{} is in the way and is not ours", taken.display()))
            .hint("move it away, or put the cluster into another folder"))
    }

    /// Makes the folder a cluster without servers.
    async fn begin(&mut self, durable: bool) -> Result<()> {
        self.refuse_if_taken()?;
        let place = Place::choose(&self.dir, &self.account).await;
        // Of a cluster whose folder was deleted by hand, an annex may still be there.
        let annex = place::annex_of(&self.dir);
        place::refuse_if_foreign(&annex)?;
        let abandoned =
            Place::remembered(&self.dir, Some(Annex { path: annex.clone(), data: true }));
        for left in fs::read_dir(abandoned.servers()).into_iter().flatten().flatten() {
            let name = left.file_name().to_string_lossy().into_owned();
            self.new_server(&abandoned, durable, name).remove().await?;
        }
        folders::remove_folder(&annex).await?;
        self.made = Some(Made { place, durable, servers: Vec::new() });
        self.save()
    }

    fn new_server(&self, place: &Place, durable: bool, name: String) -> Server {
        Server {
            folder: place.servers().join(&name),
            sockets: place.sockets(),
            durable,
            account: self.account.clone(),
            name,
            port: 0,
            bin: PathBuf::new(),
            follows: None,
        }
    }

    /// Makes those of the named primaries that are missing.
    async fn make_primaries(&mut self, names: Vec<String>, options: &UpOptions) -> Result<()> {
        let missing: Vec<_> = names.into_iter().filter(|name| self.server(name).is_err()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let Some(Made { place, durable, .. }) = &self.made else { return Ok(()) };
        place.prepare(&self.account)?;
        let found = Binaries::find(options.pg_bin.as_deref(), &self.dir).await?;
        let major = found.major();
        let bin = found.within_reach(&self.account, &place.binaries(major)).await?;
        let mut servers = Vec::new();
        for name in missing {
            let mut server = self.new_server(place, *durable, name);
            server.bin = bin.folder().to_owned();
            server.port = self.free_port(&servers)?;
            servers.push(server);
        }
        let templates = options.templates.as_deref();
        try_join_all(servers.iter().map(|server| server.make_primary(major, templates))).await?;
        self.remember(servers)
    }

    /// Makes those of an instance's named replicas that are missing.
    async fn make_replicas(&mut self, instance: &str, names: Vec<String>) -> Result<()> {
        let missing: Vec<_> = names.into_iter().filter(|name| self.server(name).is_err()).collect();
        let Some(Made { place, durable, .. }) = &self.made else { return Ok(()) };
        let primary = self.successor(instance).map_or_else(|| self.server(instance), Ok)?;
        let mut servers = Vec::new();
        for name in missing {
            let mut server = self.new_server(place, *durable, name);
            server.bin.clone_from(&primary.bin);
            server.follows = Some(instance.to_owned());
            server.port = self.free_port(&servers)?;
            servers.push(server);
        }
        try_join_all(servers.iter().map(|server| server.make_replica(primary))).await?;
        self.remember(servers)
    }

    /// A port that no server of the cluster has, running or not.
    fn free_port(&self, new: &[Server]) -> Result<u16> {
        let taken: Vec<_> = self.servers().iter().chain(new).map(Server::port).collect();
        port::pick(&taken)
    }

    fn remember(&mut self, servers: Vec<Server>) -> Result<()> {
        if let Some(made) = &mut self.made {
            made.servers.extend(servers);
        }
        self.save()
    }

    async fn start_all(&mut self) -> Result<()> {
        let names = self.servers().iter().map(|server| server.name.clone());
        let replaced: Vec<_> = names.filter(|name| self.successor(name).is_some()).collect();
        self.start_these(|server| !replaced.contains(&server.name)).await
    }

    /// Starts the chosen servers: primaries first, for replicas must know where they listen.
    async fn start_these(&mut self, chosen: impl Fn(&Server) -> bool) -> Result<()> {
        self.find_lost_programs().await?;
        let mut results = Vec::new();
        for role in [ServerRole::Primary, ServerRole::Replica] {
            let taken: Vec<_> = self.servers().iter().map(Server::port).collect();
            let upstreams = self.upstreams();
            let Some(made) = &mut self.made else { return Ok(()) };
            let starting = made.servers.iter_mut().filter(|s| s.role() == role && chosen(s));
            let starts = starting.map(|server| {
                let upstream = server.upstream().and_then(|name| upstreams.get(name).copied());
                server.start(upstream, &taken)
            });
            results.extend(join_all(starts).await);
        }
        self.save()?;
        let upstreams = self.upstreams();
        for server in self.servers() {
            if let Some(upstream) = server.upstream().and_then(|name| upstreams.get(name)) {
                server.follow(*upstream)?;
            }
        }
        results.into_iter().collect()
    }

    /// Finds programs of the same version for servers whose own are gone: the folder was moved with those in it,
    /// or the distribution's were replaced.
    async fn find_lost_programs(&mut self) -> Result<()> {
        let Some(made) = &mut self.made else { return Ok(()) };
        for server in &mut made.servers {
            if let Some(major) = server.version()
                && !server.program("pg_ctl").exists()
            {
                let found = Binaries::find_major(major, &[self.dir.join("postgres/bin")])
                    .await
                    .map_err(|error| error.at(&server.name))?
                    .within_reach(&self.account, &made.place.binaries(major))
                    .await?;
                server.bin = found.folder().to_owned();
            }
        }
        Ok(())
    }

    /// The port that the replicas of each server follow: its own, or its successor's.
    fn upstreams(&self) -> BTreeMap<String, u16> {
        let port = |server: &Server| self.successor(&server.name).unwrap_or(server).port;
        self.servers().iter().map(|server| (server.name.clone(), port(server))).collect()
    }
}

/// Held by whoever changes the cluster.
const LOCK: &str = "lock";
