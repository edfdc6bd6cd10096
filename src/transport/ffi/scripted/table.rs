//! The functions of the table.

use std::ffi::c_void;
use std::sync::LazyLock;

use bytes::BytesMut;
use msquic::ffi::{self as q, HQUIC, QUIC_API_TABLE, QUIC_BUFFER, QUIC_STATUS};

use super::world::{Connection, Stream, Submission};
use super::{STATUS_SUCCESS, Windows, handle, status, with};

/// What the crate calls of it; nothing else is there.
pub(super) static TABLE: LazyLock<QUIC_API_TABLE> = LazyLock::new(|| {
    // SAFETY: a table of optional functions; all zero is none of them.
    let mut table: QUIC_API_TABLE = unsafe { std::mem::zeroed() };
    table.SetCallbackHandler = Some(set_callback_handler);
    table.SetParam = Some(set_param);
    table.GetParam = Some(get_param);
    table.ConnectionOpenInPartition = Some(connection_open);
    table.ConnectionShutdown = Some(connection_shutdown);
    table.ConnectionClose = Some(connection_close);
    table.StreamOpen = Some(stream_open);
    table.StreamStart = Some(stream_start);
    table.StreamSend = Some(stream_send);
    table.StreamShutdown = Some(stream_shutdown);
    table.StreamReceiveSetEnabled = Some(stream_receive_set_enabled);
    table.StreamClose = Some(stream_close);
    table
});

unsafe extern "C" fn set_callback_handler(
    stream: HQUIC,
    callback: *mut c_void,
    context: *mut c_void,
) {
    // SAFETY: the crate gives the callback of a stream here, as the library's interface asks for.
    let callback =
        unsafe { std::mem::transmute::<*mut c_void, q::QUIC_STREAM_CALLBACK_HANDLER>(callback) };
    with(|world| {
        let stream = world.stream(stream.addr());
        (stream.callback, stream.context) = (callback, context);
    });
}

unsafe extern "C" fn set_param(_: HQUIC, _: u32, _: u32, _: *const c_void) -> QUIC_STATUS {
    STATUS_SUCCESS
}

unsafe extern "C" fn get_param(
    of: HQUIC,
    parameter: u32,
    length: *mut u32,
    into: *mut c_void,
) -> QUIC_STATUS {
    match parameter {
        q::QUIC_PARAM_STREAM_ID => {
            let number = with(|world| world.stream(of.addr()).number.unwrap_or_default());
            // SAFETY: who asks for this parameter has room for a number of that size.
            unsafe { into.cast::<u64>().write_unaligned(number << 2 | 2) };
            STATUS_SUCCESS
        }
        q::QUIC_PARAM_CONN_STATISTICS_V2 => {
            // SAFETY: who asks for this parameter has room for `length` bytes.
            let statistics = unsafe { into.cast::<q::QUIC_STATISTICS_V2>().as_mut() };
            if let Some(statistics) = statistics {
                (statistics.Rtt, statistics.MinRtt) = (1_000, 500);
            }
            STATUS_SUCCESS
        }
        q::QUIC_PARAM_CONN_LOCAL_ADDRESS | q::QUIC_PARAM_CONN_REMOTE_ADDRESS => {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            // SAFETY: who asks for this parameter has room for an address.
            unsafe { into.cast::<msquic::Addr>().write_unaligned(address.into()) };
            STATUS_SUCCESS
        }
        _ => {
            debug_assert!(!length.is_null());
            status::INVALID_STATE
        }
    }
}

unsafe extern "C" fn connection_open(
    _: HQUIC,
    _: u16,
    callback: q::QUIC_CONNECTION_CALLBACK_HANDLER,
    context: *mut c_void,
    opened: *mut HQUIC,
) -> QUIC_STATUS {
    let id = with(|world| {
        let id = world.next;
        world.next += 1;
        let windows = Windows { stream: u32::MAX, connection: u32::MAX };
        let connection = Connection {
            peer: 0,
            callback,
            context,
            windows,
            started: 0,
            announced: 0,
            asked: None,
            peer_asked: None,
            ending: false,
        };
        world.connections.insert(id, connection);
        id
    });
    // SAFETY: a place for the handle, as the library's interface asks for.
    unsafe { opened.write(handle(id)) };
    STATUS_SUCCESS
}

unsafe extern "C" fn connection_shutdown(
    connection: HQUIC,
    _: q::QUIC_CONNECTION_SHUTDOWN_FLAGS,
    code: q::QUIC_UINT62,
) {
    with(|world| {
        let connection = world.connections.get_mut(&connection.addr());
        connection.into_iter().for_each(|connection| connection.asked = Some(code));
    });
}

unsafe extern "C" fn connection_close(connection: HQUIC) {
    with(|world| {
        let id = connection.addr();
        assert!(world.streams.values().all(|stream| stream.connection != id), "streams are open");
        world.connections.remove(&id);
    });
}

unsafe extern "C" fn stream_open(
    connection: HQUIC,
    _: q::QUIC_STREAM_OPEN_FLAGS,
    callback: q::QUIC_STREAM_CALLBACK_HANDLER,
    context: *mut c_void,
    opened: *mut HQUIC,
) -> QUIC_STATUS {
    let id = with(|world| {
        let id = world.next;
        world.next += 1;
        if world.connections.get(&connection.addr()).is_none_or(|it| it.ending) {
            return None;
        }
        let stream = Stream { callback, context, ..Stream::new(connection.addr()) };
        world.streams.insert(id, stream);
        Some(id)
    });
    let Some(id) = id else { return status::INVALID_STATE };
    // SAFETY: as for a connection.
    unsafe { opened.write(handle(id)) };
    STATUS_SUCCESS
}

unsafe extern "C" fn stream_start(stream: HQUIC, flags: q::QUIC_STREAM_START_FLAGS) -> QUIC_STATUS {
    let immediate = q::QUIC_STREAM_START_FLAGS_QUIC_STREAM_START_FLAG_IMMEDIATE;
    with(|world| {
        let connection = world.stream(stream.addr()).connection;
        let connection = world.connections.get_mut(&connection).expect("its connection");
        let number = connection.started;
        connection.started += 1;
        let stream = world.stream(stream.addr());
        (stream.number, stream.wanted) = (Some(number), flags & immediate != 0);
    });
    STATUS_SUCCESS
}

unsafe extern "C" fn stream_send(
    stream: HQUIC,
    buffers: *const QUIC_BUFFER,
    count: u32,
    _: q::QUIC_SEND_FLAGS,
    context: *mut c_void,
) -> QUIC_STATUS {
    // SAFETY: so many buffers, as the library's interface asks for.
    let buffers = unsafe { std::slice::from_raw_parts(buffers, count as usize) };
    let mut left = BytesMut::new();
    for buffer in buffers {
        // SAFETY: they live until the submission is complete.
        left.extend_from_slice(unsafe {
            std::slice::from_raw_parts(buffer.Buffer, buffer.Length as usize)
        });
    }
    with(|world| {
        if world.refuse_sends > 0 {
            world.refuse_sends -= 1;
            return status::ABORTED;
        }
        let connection = world.streams.get(&stream.addr()).map(|stream| stream.connection);
        let connection = connection.and_then(|id| world.connections.get(&id));
        let Some(connection) = connection else { return status::INVALID_STATE };
        let ending = connection.asked.is_some() || connection.peer_asked.is_some();
        let stream = world.stream(stream.addr());
        if ending || stream.reset.is_some() || stream.finish {
            return status::INVALID_STATE;
        }
        stream.sends.push_back(Submission { left, context });
        STATUS_SUCCESS
    })
}

unsafe extern "C" fn stream_shutdown(
    stream: HQUIC,
    flags: q::QUIC_STREAM_SHUTDOWN_FLAGS,
    code: q::QUIC_UINT62,
) -> QUIC_STATUS {
    let graceful = q::QUIC_STREAM_SHUTDOWN_FLAGS_QUIC_STREAM_SHUTDOWN_FLAG_GRACEFUL;
    with(|world| {
        let Some(stream) = world.streams.get_mut(&stream.addr()) else { return };
        if flags & graceful != 0 {
            stream.finish = true;
        } else if !stream.is_peers {
            stream.reset.get_or_insert(code);
        }
    });
    STATUS_SUCCESS
}

unsafe extern "C" fn stream_receive_set_enabled(stream: HQUIC, enabled: q::BOOLEAN) -> QUIC_STATUS {
    with(|world| {
        let stream = world.streams.get_mut(&stream.addr());
        stream.into_iter().for_each(|stream| stream.enabled = enabled != 0);
    });
    STATUS_SUCCESS
}

unsafe extern "C" fn stream_close(stream: HQUIC) {
    with(|world| world.streams.remove(&stream.addr()));
}
