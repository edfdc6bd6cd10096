//! The transport's public contract: the documented calls compile and run as they stand.

use std::net::SocketAddr;
use std::time::Duration;

use moorline::{CloseCode, MsQuicTransport, NetCredential};

#[tokio::test]
async fn the_documented_calls_work_as_written() -> Result<(), Box<dyn std::error::Error>> {
    let bind_addr: SocketAddr = "127.0.0.1:0".parse()?;
    let credential = NetCredential::generate_self_signed(&["sample"], &[])?;
    let own = credential.identity();
    let credential = credential.trust_hash(own);
    let transport = MsQuicTransport::new();
    let listener = transport.create_listener(bind_addr, &["my-alpn"], credential.clone()).await?;
    let remote_addr = listener.local_addr();
    let dialled = {
        let (transport, credential) = (transport.clone(), credential.clone());
        tokio::spawn(async move {
            let connection = transport.connect(remote_addr, &["my-alpn"], credential).await?;
            connection.send(b"hello").await?;
            let (data, _) = connection.recv().await?;
            assert_eq!(data, "world");
            connection.close(CloseCode::NORMAL).await;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
    };
    let incoming_request = listener.accept().await?;
    let connection = incoming_request.accept().await?;
    assert_eq!(connection.remote_identity(), own);
    assert_eq!(connection.alpn_negotiated(), "my-alpn");
    connection.send(b"world").await?;
    let (data, duration) = connection.recv().await?;
    println!("Received {} bytes in {:?}", data.len(), duration);
    assert_eq!(data, "hello");
    println!("{:?}", connection.recv().await);
    connection.close(CloseCode::NORMAL).await;
    dialled.await?.map_err(|e| e.to_string())?;
    let registration = transport.registration()?;
    drop((connection, listener));
    assert!(registration.wait_idle(Duration::from_secs(5)).await);
    Ok(())
}
