//! scratch
use anyhow::{Context, Result};
use moorline::*;
use moorline_interop::moorline_end::*;
use moorline_interop::quinn_peer::*;
use moorline_interop::*;
use std::time::Instant;

#[tokio::test]
async fn scratch_quinn_drops_in_handshake() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let endpoint = listener(&Settings::new(&certificate, moorline.credential.identity()))?;
    let refused = async {
        let incoming = within(LIMIT, "quinn is dialled", endpoint.accept()).await;
        drop(incoming.context("the endpoint is closed")?.accept()?);
        anyhow::Ok(())
    };
    let start = Instant::now();
    let (connected, refused) = tokio::join!(moorline.connect(endpoint.local_addr()?), refused);
    refused?;
    println!("SEEN quinn drops: {connected:?} after {:?}", start.elapsed());
    drop(connected);
    moorline.ends().await
}

#[tokio::test]
async fn scratch_moorline_refuses_moorline() -> Result<()> {
    let credential = NetCredential::generate_self_signed(&["localhost"], &[])?;
    let own = credential.identity();
    let credential = credential.trust_hash(own);
    let t = MsQuicTransport::new();
    let at = t.create_listener(ANY_PORT, &[DEFAULT_ALPN], credential.clone()).await?;
    let refused = async {
        let request = within(LIMIT, "moorline is dialled", at.accept()).await?;
        request.refuse(CloseCode::TOO_MANY_CONNECTIONS);
        anyhow::Ok(())
    };
    let start = Instant::now();
    let (c, r) = tokio::join!(t.connect(at.local_addr(), &[DEFAULT_ALPN], credential.clone()), refused);
    r?;
    println!("SEEN moorline refuses moorline: {c:?} after {:?}", start.elapsed());
    if let Ok(c) = c { println!("SEEN close {:?}", within(LIMIT, "x", c.watch_close()).await); }
    drop(at);
    let start = Instant::now();
    println!("SEEN idle {} {:?}", t.registration()?.wait_idle(LIMIT).await, start.elapsed());
    Ok(())
}

#[tokio::test]
async fn scratch_peer_never_opens_a_stream() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let moorline = Moorline::trusting(&certificate)?;
    let endpoint = dialler(&Settings::new(&certificate, moorline.credential.identity()))?;
    let at = moorline.listen().await?;
    let (link, connection) = tokio::join!(QuinnLink::dial(&endpoint, at.local_addr()), accept(&at));
    let (mut link, connection) = (link?, connection?);
    connection.send(b"x").await?;
    let start = Instant::now();
    let close = connection.close(CloseCode::NORMAL);
    let (r, f) = tokio::join!(close, async { let a = link.frames.next().await?; let b = link.frames.next().await?; anyhow::Ok((a,b)) });
    println!("SEEN close of a peer that never opened a stream {r:?} {f:?} {:?}", start.elapsed());
    drop(at);
    drop(connection);
    moorline.ends().await
}

#[tokio::test]
async fn scratch_node_peer_never_opens_a_stream() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let mut events = node.subscribe();
    let address = node.listen(ANY_PORT).await?;
    let endpoint = dialler(&Settings::new(&certificate, credential.identity()))?;
    let (link, handle) = tokio::join!(QuinnLink::dial(&endpoint, address), connected(&mut events));
    let (mut link, handle) = (link?, handle?);
    handle.send("x").await?;
    let start = Instant::now();
    let (r, f) = tokio::join!(handle.close(CloseCode::NORMAL), async { let a = link.frames.next().await?; let b = link.frames.next().await?; anyhow::Ok((a,b)) });
    println!("SEEN node close of a peer that never opened a stream {r:?} {f:?} {:?} stats {:?}", start.elapsed(), handle.stats());
    end(node).await
}

#[tokio::test]
async fn scratch_node_connect_time() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let endpoint = listener(&Settings::new(&certificate, credential.identity()))?;
    let start = Instant::now();
    let connect = node.connect(endpoint.local_addr()?);
    let (handle, link) = tokio::join!(connect, QuinnLink::accept(&endpoint));
    println!("SEEN node connect to quinn took {:?}", start.elapsed());
    let (handle, mut link) = (handle?, link?);
    // request then fin
    link.out.write(encode(b"req")).await?;
    link.out.finish().await?;
    println!("SEEN {:?}", handle.recv().await);
    println!("SEEN {:?}", handle.recv().await);
    println!("SEEN send after end {:?}", handle.send("answer").await);
    println!("SEEN {:?}", within(LIMIT, "quinn", link.frames.next()).await);
    println!("SEEN {:?}", link.closed().await);
    println!("SEEN reason {:?} ", handle.closed().await);
    end(node).await
}

#[tokio::test]
async fn scratch_stop_sending_outcomes() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let mut events = node.subscribe();
    let address = node.listen(ANY_PORT).await?;
    let endpoint = dialler(&Settings::new(&certificate, credential.identity()))?;
    let (link, handle) = tokio::join!(QuinnLink::dial(&endpoint, address), connected(&mut events));
    let (link, handle) = (link?, handle?);
    handle.send_acked("first").await?;
    let mut s = link.connection.accept_uni().await?;
    let mut b = [0; 9];
    s.read_exact(&mut b).await?;
    s.stop(7u32.into())?;
    for i in 0..6 {
        let r = within(LIMIT, "x", handle.send_acked(frame(i, 300_000))).await;
        println!("SEEN {i} {:?} reason {:?}", r.map_err(|e| e.to_string()), handle.close_reason());
    }
    println!("SEEN {:?}", handle.stats());
    link.connection.close(0u32.into(), b"");
    println!("SEEN {:?}", handle.closed().await);
    end(node).await
}

#[tokio::test]
async fn scratch_quinn_resets_only_stream_then_close() -> Result<()> {
    let certificate = PeerCertificate::generate()?;
    let (node, credential) = node_trusting(&certificate).await?;
    let mut events = node.subscribe();
    let address = node.listen(ANY_PORT).await?;
    let endpoint = dialler(&Settings::new(&certificate, credential.identity()))?;
    let (link, handle) = tokio::join!(QuinnLink::dial(&endpoint, address), connected(&mut events));
    let (link, handle) = (link?, handle?);
    let mut s = link.connection.open_uni().await?;
    s.write_chunk(encode(b"abc")).await?;
    println!("SEEN {:?}", handle.recv().await);
    s.reset(9u32.into())?;
    println!("SEEN {:?}", handle.recv().await);
    let start = Instant::now();
    println!("SEEN close after reset {:?} {:?}", handle.close(CloseCode::NORMAL).await, start.elapsed());
    drop(link);
    end(node).await
}
