//! A worker: takes jobs until it is killed, or whoever started it is gone.

use std::io::{BufRead, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline::{Incoming, Latency, NetCredential, Node, NodeConfig, Peer, Request, Target};

use super::coordinator::PROTOCOL;

/// Until the next try where the coordinator cannot be reached.
const PAUSE: Duration = Duration::from_millis(100);

/// Who it is and whom it works for, as its first lines of input say.
pub(crate) struct Orders {
    credential: NetCredential,
    target: Target,
}

impl Orders {
    /// `address`, the coordinator's identity, and a credential, which leaves no file behind.
    pub(crate) fn to_text(
        address: std::net::SocketAddr,
        identity: moorline::CertHash,
        own: &NetCredential,
    ) -> String {
        let (certificate, key) = (own.certificate_pem(), own.private_key_pem());
        format!("{address}\n{identity}\n{certificate}\n---\n{}\n---\n", key.as_str())
    }

    fn read(input: &mut impl BufRead) -> Result<Self, Box<dyn std::error::Error>> {
        let (mut line, mut parts) = (String::new(), [String::new(), String::new()]);
        input.read_line(&mut line)?;
        let address: std::net::SocketAddr = line.trim().parse()?;
        line.clear();
        input.read_line(&mut line)?;
        let identity = line.trim().parse()?;
        for part in &mut parts {
            line.clear();
            while input.read_line(&mut line)? > 0 && line.trim() != "---" {
                part.push_str(&line);
                line.clear();
            }
        }
        let [certificate, key] = parts;
        let credential = NetCredential::from_pem(certificate.as_bytes(), key.as_bytes())?;
        let target = Target::from(address).expect(identity);
        Ok(Self { credential: credential.trust_hash(identity), target })
    }
}

/// What the process does.
pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let orders = Orders::read(&mut std::io::stdin().lock())?;
    std::thread::spawn(|| {
        // Nobody writes any more: it ends with whoever started it.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
    let mut config = NodeConfig::new(orders.credential);
    // Many workers share this machine.
    config.latency = Latency::Saving;
    let node = Node::spawn(config).await?;
    loop {
        match node.peer(orders.target.clone(), PROTOCOL).await {
            Ok(coordinator) => work_for(coordinator).await,
            Err(error) => {
                eprintln!("no coordinator: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Until the session is over.
async fn work_for(coordinator: Peer) {
    while let Ok(incoming) = coordinator.recv().await {
        if let Incoming::Request(request) = incoming {
            tokio::spawn(work(request));
        }
    }
}

async fn work(request: Request) {
    let Some(job) = request.frame().first_chunk().map(|job| u64::from_be_bytes(*job)) else {
        return;
    };
    tell_taken(job);
    tokio::time::sleep(Duration::from_millis(20 + job % 40)).await;
    // Where that fails the session is over, and the job another one's.
    let _ = request.reply(job.to_be_bytes().to_vec()).await;
}

/// Says on standard output which job was taken, and when.
fn tell_taken(job: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Whoever does not read it has no use for it.
    let _ = writeln!(std::io::stdout(), "took {job} {}", now.as_micros());
}
