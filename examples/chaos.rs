//! A program under faults: `cargo run --example chaos --features testing`.

use moorline::testing::{Cluster, Ledger, Script};
use moorline::{Lane, NodeEvent, Redial};

const FRAMES: u64 = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = Cluster::start(2, 7).await?;
    let ledger = Ledger::new();

    // The program, one half: takes what comes, on whatever connection.
    let (mut events, arrived) = (cluster.node(1).subscribe(), ledger.clone());
    let receiver = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let NodeEvent::Connected(connection) = event else { continue };
            while let Ok(frame) = connection.recv().await {
                arrived.receive(&frame).expect("no frame is damaged");
                if arrived.received() == FRAMES {
                    return;
                }
            }
        }
    });

    // The faults: both ways, by the clock.
    let faults: Script = "at 0 s: lose 5 %; at 200 ms: black hole for 2 s".parse()?;
    cluster.link(0, 1).play(&faults);

    // The other half: sends each frame until it is acknowledged.
    let target = cluster.target(0, 1).redial(Redial::Always);
    let sender = ledger.sender("0 to 1");
    for _ in 0..FRAMES {
        let frame = sender.frame(Lane::Data, 1_000);
        while {
            let connection = cluster.node(0).connect(target.clone()).await?;
            connection.send_acked(frame.clone()).await.is_err()
        } {}
    }
    receiver.await?;

    // What came of it: nothing is lost; what was sent again may have come again.
    let report = ledger.report();
    print!("{report}");
    assert!(report.flows.iter().all(|flow| flow.lost.is_empty()));
    Ok(cluster.close(std::time::Duration::from_secs(5)).await?)
}
