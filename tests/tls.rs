//! Encrypted connections: verified as far as the configuration says, and never plain by accident.
#![cfg(test)]
#![cfg(feature = "tls")]

use std::path::PathBuf;

use howdah::postgres::Client;
use howdah::testing::{TestCluster, until};
use howdah::{Cluster, Config, Phase, Result, SslMode};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Writes a file into the server's data folder, as the server would have it: closed to others.
async fn put(server: &Client, name: &str, source: &str) {
    let text = std::fs::read_to_string(file(source)).unwrap();
    let program = format!("umask 077; cat > {name}");
    let lines =
        "SELECT unnest(string_to_array(trim($$TEXT$$, E'\\n'), E'\\n'))".replace("TEXT", &text);
    server.batch_execute(&format!("COPY ({lines}) TO PROGRAM '{program}'")).await.unwrap();
}

/// Makes the server read its configuration, and waits until new sessions see it.
async fn reload(test: &TestCluster) -> Result<()> {
    test.admin("pg1").await?.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until("new sessions see it", async || {
        let row = test.admin("pg1").await.unwrap().query_one("SHOW ssl", &[]).await.unwrap();
        row.get::<_, &str>(0) == "on"
    })
    .await;
    Ok(())
}

/// A cluster whose only server shows this certificate. Of the servers that tests have, 15 is the one built with TLS.
async fn cluster_with(certificate: &str) -> Result<TestCluster> {
    let builder = TestCluster::builder().postgres(15).instances(1).shards(1).own_servers();
    let test = builder.start().await?;
    let server = test.admin("pg1").await?;
    put(&server, "server.crt", &format!("{certificate}.pem")).await;
    put(&server, "server.key", &format!("{certificate}.key")).await;
    put(&server, "root.crt", "ca.pem").await;
    for setting in ["ssl = on", "ssl_ca_file = 'root.crt'"] {
        server.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    reload(&test).await?;
    Ok(test)
}

/// Whether the library's connection is encrypted, and by which certificate of its own.
async fn session(config: Config) -> Result<(bool, Option<String>)> {
    let cluster = Cluster::connect(config).await?;
    let client = cluster.instances()[0].client().await?;
    let sql = "SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(sql, &[]).await.unwrap();
    Ok((row.get(0), row.get(1)))
}

fn refused(result: Result<(bool, Option<String>)>, word: &str) {
    let error = result.unwrap_err();
    assert!(error.to_string().to_lowercase().contains(word), "{error}");
}

#[tokio::test]
async fn a_server_is_verified_as_far_as_the_configuration_says() -> Result<()> {
    use SslMode::{Disable, Require, VerifyCa, VerifyFull};

    let test = cluster_with("server").await?;
    let config = |mode| test.config().sslmode(mode);
    assert!(session(config(VerifyFull).sslrootcert(file("ca.pem"))).await?.0);
    assert!(session(config(VerifyCa).sslrootcert(file("ca.pem"))).await?.0);
    assert!(session(config(Require)).await?.0);
    assert!(!session(config(Disable)).await?.0);
    for mode in [VerifyFull, VerifyCa] {
        refused(session(config(mode).sslrootcert(file("other-ca.pem"))).await, "certificate");
    }
    refused(session(config(VerifyFull)).await, "certificate");
    refused(session(config(VerifyFull).sslrootcert(file("none.pem"))).await, "none.pem");
    refused(session(config(VerifyFull).sslrootcert(file("server.key"))).await, "no certificate");
    Ok(())
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_in_full_verification_alone() -> Result<()> {
    let test = cluster_with("elsewhere").await?;
    let config = test.config().sslrootcert(file("ca.pem"));
    refused(session(config.clone().sslmode(SslMode::VerifyFull)).await, "name");
    assert!(session(config.sslmode(SslMode::VerifyCa)).await?.0);
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_is_shown() -> Result<()> {
    let test = cluster_with("server").await?;
    let config = test
        .config()
        .sslmode(SslMode::VerifyFull)
        .sslrootcert(file("ca.pem"))
        .sslcert(file("client.pem"))
        .sslkey(file("client.key"));
    let (_, shown) = session(config).await?;
    assert_eq!(shown.as_deref(), Some("/CN=howdah_app"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_demands_a_client_certificate_refuses_who_has_none() -> Result<()> {
    let test = cluster_with("server").await?;
    let config = test.config().sslmode(SslMode::VerifyFull).sslrootcert(file("ca.pem"));
    let cluster = Cluster::connect(config.clone()).await?;
    let instance = cluster.instances().remove(0);
    instance.client().await?;
    let server = test.admin("pg1").await?;
    // The first rule that fits decides.
    let demand = "COPY (SELECT 'hostssl all howdah_app all trust clientcert=verify-full') TO PROGRAM \
        'cat - pg_hba.conf > pg_hba.new && mv pg_hba.new pg_hba.conf'";
    server.batch_execute(demand).await.unwrap();
    server.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let error = until("it is refused", async || instance.client().await.err()).await;
    assert_eq!((error.phase(), error.instance()), (Some(Phase::Connect), Some("pg1")), "{error:?}");
    assert!(error.to_string().contains("valid client certificate"), "{error}");
    refused(session(config.clone()).await, "valid client certificate");
    let shown = session(config.sslcert(file("client.pem")).sslkey(file("client.key"))).await?;
    assert_eq!(shown.1.as_deref(), Some("/CN=howdah_app"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_is_not_spoken_to_in_plain_text() -> Result<()> {
    let test = TestCluster::builder().instances(1).shards(1).start().await?;
    refused(session(test.config().sslmode(SslMode::Require)).await, "tls");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_went_wrong_is_named_and_one_set_right_is_enough() -> Result<()> {
    let test = cluster_with("server").await?;
    let config = test.config().sslmode(SslMode::VerifyFull).sslrootcert(file("ca.pem"));
    let cluster = Cluster::connect(config).await?;
    let instance = cluster.instances().remove(0);
    instance.client().await?;
    let server = test.admin("pg1").await?;
    let show = async |certificate: &str| {
        put(&server, "server.crt", &format!("{certificate}.pem")).await;
        put(&server, "server.key", &format!("{certificate}.key")).await;
        server.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    };
    show("elsewhere").await;
    // The server takes a moment to show it.
    let error = until("it is refused", async || instance.client().await.err()).await;
    assert_eq!((error.phase(), error.instance()), (Some(Phase::Connect), Some("pg1")), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error:?}");
    show("server").await;
    until("it is accepted again", async || instance.client().await.is_ok()).await;
    Ok(())
}
