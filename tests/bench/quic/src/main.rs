//! `quic-forward client|server`: carries TCP connections as streams of one QUIC connection (quinn, BBR), site to site.
//!
//! The client takes TCP connections that nftables has redirected to it, opens one bidirectional stream for each and
//! begins it with the destination (four bytes of address, two of port, network order); the server connects there. Half
//! closes and resets cross in both directions. The server writes its certificate to a file, the client trusts that one.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Parser};
use quinn::congestion::BbrConfig;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::Mutex;

/// The name in the certificate; it stands for nothing.
const NAME: &str = "quic-forward";
/// Most of a connection that is read at once.
const READ_BYTES: usize = 256 * 1024;
/// What both kernels are asked to buffer of the UDP socket (they give up to net.core.rmem_max).
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// An outage shorter than this is ridden out.
const IDLE: Duration = Duration::from_secs(120);
/// How long a TCP connection to the destination may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The code of a stream whose TCP connection was reset.
const RESET: VarInt = VarInt::from_u32(1);

#[derive(Parser)]
#[command(about = "TCP connections as streams of one QUIC connection (quinn, BBR)")]
enum Command {
    /// Takes TCP connections and carries them to the server.
    Client {
        /// Where TCP connections arrive.
        #[arg(long)]
        listen: SocketAddr,
        /// The server's UDP address.
        #[arg(long)]
        server: SocketAddr,
        /// Where every connection goes; without it, where it went before it was redirected.
        #[arg(long)]
        target: Option<SocketAddrV4>,
        #[command(flatten)]
        path: PathOptions,
    },
    /// Takes QUIC from the client and connects to where each stream wants to go.
    Server {
        /// The UDP address.
        #[arg(long)]
        listen: SocketAddr,
        #[command(flatten)]
        path: PathOptions,
    },
}

/// What both sides have to agree upon or should.
#[derive(Args)]
struct PathOptions {
    /// The server writes its certificate there, the client reads it.
    #[arg(long)]
    certificate: PathBuf,
    /// Bytes under way at most, for a stream and for the connection: two bandwidth-delay products are ample.
    #[arg(long, default_value_t = 8 << 20)]
    window: u32,
}

impl PathOptions {
    /// BBR with these windows; everything else, so GSO and MTU discovery too, as quinn has it.
    fn transport(&self) -> Result<Arc<TransportConfig>> {
        let mut transport = TransportConfig::default();
        transport
            .congestion_controller_factory(Arc::new(BbrConfig::default()))
            .stream_receive_window(self.window.into())
            .receive_window(self.window.into())
            .send_window(self.window.into())
            .max_concurrent_bidi_streams(1024u32.into())
            .max_idle_timeout(Some(IDLE.try_into()?))
            .keep_alive_interval(Some(Duration::from_secs(5)));
        Ok(Arc::new(transport))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Client { listen, server, target, path } => client(listen, server, target, &path).await,
        Command::Server { listen, path } => server(listen, &path).await,
    }
}

fn endpoint(address: SocketAddr, config: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into()).with_context(|| format!("binding UDP {address}"))?;
    Ok(Endpoint::new(EndpointConfig::default(), config, UdpSocket::from(socket), Arc::new(TokioRuntime))?)
}

// ---- the client's side ----

/// The way to the server: a connection that is made anew once it is lost.
struct Uplink {
    endpoint: Endpoint,
    server: SocketAddr,
    connection: Mutex<Option<Connection>>,
}

impl Uplink {
    async fn stream(&self) -> Result<(SendStream, RecvStream)> {
        let mut held = self.connection.lock().await;
        let connection = match held.take().filter(|connection| connection.close_reason().is_none()) {
            Some(connection) => connection,
            None => self.endpoint.connect(self.server, NAME)?.await.context("connecting to the server")?,
        };
        Ok(held.insert(connection).open_bi().await?)
    }
}

async fn client(
    listen: SocketAddr,
    server: SocketAddr,
    target: Option<SocketAddrV4>,
    path: &PathOptions,
) -> Result<()> {
    let certificate =
        std::fs::read(&path.certificate).with_context(|| format!("reading {}", path.certificate.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(certificate))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(path.transport()?);
    let mut endpoint = endpoint(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), None)?;
    endpoint.set_default_client_config(config);
    let uplink = Arc::new(Uplink { endpoint, server, connection: Mutex::new(None) });
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    loop {
        let (connection, from) = listener.accept().await?;
        let uplink = uplink.clone();
        tokio::spawn(async move {
            if let Err(error) = take(&uplink, connection, target).await {
                eprintln!("quic-forward: connection from {from}: {error:#}");
            }
        });
    }
}

async fn take(uplink: &Uplink, connection: TcpStream, target: Option<SocketAddrV4>) -> Result<()> {
    let target = match target {
        Some(target) => target,
        None => {
            SockRef::from(&connection).original_dst_v4()?.as_socket_ipv4().ok_or_else(|| anyhow!("not redirected"))?
        }
    };
    let opened = async {
        let (mut send, receive) = uplink.stream().await?;
        send.write_all(&target.ip().octets()).await?;
        send.write_all(&target.port().to_be_bytes()).await?;
        anyhow::Ok((send, receive))
    };
    match opened.await {
        Ok((send, receive)) => relay(connection, send, receive).await,
        Err(error) => {
            SockRef::from(&connection).set_linger(Some(Duration::ZERO))?;
            Err(error)
        }
    }
}

// ---- the server's side ----

async fn server(listen: SocketAddr, path: &PathOptions) -> Result<()> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![own.cert.der().clone()], key.into())?;
    config.transport_config(path.transport()?);
    let endpoint = endpoint(listen, Some(config))?;
    std::fs::write(&path.certificate, own.cert.der())
        .with_context(|| format!("writing {}", path.certificate.display()))?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = match incoming.await {
                Ok(connection) => connection,
                Err(error) => return eprintln!("quic-forward: {error}"),
            };
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    if let Err(error) = give(send, receive).await {
                        eprintln!("quic-forward: {error:#}");
                    }
                });
            }
        });
    }
    Ok(())
}

async fn give(mut send: SendStream, mut receive: RecvStream) -> Result<()> {
    let mut target = [0; 6];
    receive.read_exact(&mut target).await?;
    let [a, b, c, d, high, low] = target;
    let target = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
    match tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
        Ok(Ok(connection)) => relay(connection, send, receive).await,
        other => {
            let _ = (send.reset(RESET), receive.stop(RESET));
            other
                .context("no answer")
                .and_then(|tried| Ok(tried?))
                .map(drop)
                .with_context(|| format!("connecting to {target}"))
        }
    }
}

// ---- both ----

/// Until both directions have ended. An error of either is a reset of both.
async fn relay(mut connection: TcpStream, mut send: SendStream, mut receive: RecvStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let (reader, writer) = connection.split();
    let ended = tokio::try_join!(outward(reader, &mut send), inward(&mut receive, writer));
    if ended.is_err() {
        let _ = (send.reset(RESET), receive.stop(RESET));
        let _ = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
    }
    ended.map(drop)
}

async fn outward(mut from: tcp::ReadHalf<'_>, to: &mut SendStream) -> Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(to.finish()?),
            length => to.write_all(&buffer[..length]).await?,
        }
    }
}

async fn inward(from: &mut RecvStream, mut to: tcp::WriteHalf<'_>) -> Result<()> {
    while let Some(chunk) = from.read_chunk(READ_BYTES, true).await? {
        to.write_all(&chunk.bytes).await?;
    }
    Ok(to.shutdown().await?)
}
