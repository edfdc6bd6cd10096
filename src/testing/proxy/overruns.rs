//! Datagrams that the kernel lost before anybody here could read them.

/// Where Linux tells of its sockets, for each family.
const TABLES: [&str; 2] = ["/proc/net/udp", "/proc/net/udp6"];

/// How many datagrams the queues of these ports lost; none where the system does not tell.
pub(super) fn overruns(ports: &[u16]) -> Option<u64> {
    let tables = TABLES.iter().filter_map(|table| std::fs::read_to_string(table).ok());
    tables.map(|table| dropped(&table, ports)).reduce(|a, b| a + b)
}

/// A line of the table ends with the number of datagrams that were dropped.
fn dropped(table: &str, ports: &[u16]) -> u64 {
    let of_line = |line: &str| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok().filter(|port| ports.contains(port));
        port.and_then(|_| line.split_whitespace().last()?.parse::<u64>().ok())
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_ports_are_summed_up() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 8321: 0100007F:821F 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2085526 2 0000000 7
 8838: 0100007F:8424 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2085528 2 0000000 30
 8839: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2085528 2 0000000 200
";
        assert_eq!(dropped(table, &[0x821F, 0x8424]), 37);
        assert_eq!(dropped(table, &[5]), 0);
        assert_eq!(dropped("", &[5]), 0);
    }
}
