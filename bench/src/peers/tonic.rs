//! tonic: unary calls over HTTP/2 and TLS 1.3, without protobuf, which would cost it some more.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc as Server, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
};
use tonic::{Request, Response, Status};
use tower_service::Service;

use crate::certificates::{Certificates, End, SERVER_NAME};
use crate::peer::Place;

const PATH: &str = "/bench.Echo/Ask";

/// What is said, as it is.
#[derive(Debug, Default, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Answers with what it was asked.
#[derive(Debug, Clone, Copy)]
struct Echo;

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(request.into_inner())))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async { Ok(Server::new(Raw).unary(Self, request).await) })
    }
}

/// Answers all who come, and tells where.
pub(crate) async fn serve(certificates: &Certificates) -> Result<SocketAddr> {
    let listener = TcpListener::bind(Place::LOOPBACK.any_port()).await?;
    let address = listener.local_addr()?;
    let (identity, authority) = pem(certificates, End::Server)?;
    let tls = ServerTlsConfig::new().identity(identity).client_ca_root(authority);
    let mut server = tonic::transport::Server::builder().tls_config(tls)?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(async move {
        if let Err(error) = server.add_service(Echo).serve_with_incoming(incoming).await {
            eprintln!("no more calls are taken: {error}");
        }
    });
    Ok(address)
}

/// Asks one server, over one connection.
#[derive(Clone)]
pub(crate) struct Caller(Client<Channel>);

impl Caller {
    pub(crate) async fn connect(certificates: &Certificates, to: SocketAddr) -> Result<Self> {
        let (identity, authority) = pem(certificates, End::Client)?;
        let tls = ClientTlsConfig::new()
            .identity(identity)
            .ca_certificate(authority)
            .domain_name(SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{to}"))?.tcp_nodelay(true);
        let channel = endpoint.tls_config(tls)?.connect().await.context("cannot connect")?;
        Ok(Self(Client::new(channel)))
    }

    pub(crate) async fn ask(mut self, payload: Bytes) -> Result<Bytes> {
        self.0.ready().await?;
        let path = PathAndQuery::from_static(PATH);
        Ok(self.0.unary(Request::new(payload), path, Raw).await?.into_inner())
    }
}

fn pem(certificates: &Certificates, end: End) -> Result<(Identity, Certificate)> {
    let read = |path| fs::read(&path).with_context(|| format!("cannot read {path:?}"));
    let certificate = read(certificates.certificate_file(end))?;
    let identity = Identity::from_pem(certificate, read(certificates.key_file(end))?);
    Ok((identity, Certificate::from_pem(read(certificates.authority_file())?)))
}
