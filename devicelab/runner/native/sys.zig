//! The kernel's side of the program: files, memory, time and processes through system calls, without a libc.
//!
//! Only calls that Linux 3.4 (Android 5) has on every architecture, and that Android's shell user may make.

const std = @import("std");
const linux = std.os.linux;

pub const Errno = linux.E;
pub const Fd = linux.fd_t;
const fault = linux.errno;

/// Why the last call failed. The error itself is only `System`, so that callers say what it means for them.
pub var last_errno: Errno = .SUCCESS;
pub const Error = error{System};

fn checked(result: usize) Error!usize {
    const errno = fault(result);
    if (errno == .SUCCESS) return result;
    last_errno = errno;
    return error.System;
}

/// The last failure in words.
pub fn reason() []const u8 {
    return switch (last_errno) {
        .NOENT => "there is no such file",
        .ACCES, .PERM => "permission denied",
        .NOSPC => "the disk is full",
        .DQUOT => "the disk quota is used up",
        .FBIG => "the file would be larger than allowed",
        .ROFS => "the file system is read-only",
        .ISDIR => "it is a directory",
        .NOTDIR => "a part of its path is no directory",
        .NAMETOOLONG => "its name is too long",
        .LOOP => "too many symbolic links",
        .IO => "input/output error",
        .NOMEM => "out of memory",
        .MFILE, .NFILE => "too many open files",
        .SPIPE, .NODEV => "it is no ordinary file",
        .XDEV => "it is on another file system",
        .PIPE => "nobody reads it any more",
        else => |other| std.enums.tagName(Errno, other) orelse "unknown error",
    };
}

pub fn open(path: [*:0]const u8) Error!Fd {
    // NONBLOCK: a FIFO in place of a file must not make the runner wait for ever.
    var flags: linux.O = .{ .ACCMODE = .RDONLY, .CLOEXEC = true, .NONBLOCK = true };
    if (@hasField(linux.O, "LARGEFILE")) flags.LARGEFILE = true;
    return @intCast(try again(linux.open, .{ path, flags, 0 }));
}

pub fn exists(path: [*:0]const u8) bool {
    const fd = open(path) catch return false;
    close(fd);
    return true;
}

/// Opens for writing; what was there is gone.
pub fn create(path: [*:0]const u8) Error!Fd {
    var flags: linux.O = .{ .ACCMODE = .WRONLY, .CLOEXEC = true, .CREAT = true, .TRUNC = true };
    if (@hasField(linux.O, "LARGEFILE")) flags.LARGEFILE = true;
    return @intCast(try again(linux.open, .{ path, flags, 0o644 }));
}

pub fn close(fd: Fd) void {
    _ = linux.close(fd);
}

/// The file's length. Fails for what is no ordinary file.
pub fn size(fd: Fd) Error!u64 {
    var byte: [1]u8 = undefined;
    _ = try readAt(fd, &byte, 0); // fails for a directory, which has a length of a sort
    const end = 2;
    if (@sizeOf(usize) == 8) return try checked(linux.syscall3(.lseek, handle(fd), 0, end));
    var result: i64 = 0;
    const half: usize = if (@hasField(linux.SYS, "llseek"))
        linux.syscall5(.llseek, handle(fd), 0, 0, @intFromPtr(&result), end)
    else
        linux.syscall5(._llseek, handle(fd), 0, 0, @intFromPtr(&result), end);
    _ = try checked(half);
    return @intCast(result);
}

pub fn readAt(fd: Fd, buffer: []u8, offset: u64) Error!usize {
    return again(linux.pread, .{ fd, buffer.ptr, buffer.len, @as(i64, @intCast(offset)) });
}

pub fn read(fd: Fd, buffer: []u8) Error!usize {
    return again(linux.read, .{ fd, buffer.ptr, buffer.len });
}

/// Writes all of it, with one call where the kernel takes it at once.
pub fn writeAll(fd: Fd, bytes: []const u8) Error!void {
    var rest = bytes;
    while (rest.len > 0) rest = rest[try write(fd, rest)..];
}

/// How much the kernel took; nothing where it would take none now, and the file was made non-blocking.
pub fn write(fd: Fd, bytes: []const u8) Error!usize {
    return again(linux.write, .{ fd, bytes.ptr, bytes.len }) catch |failure| {
        if (last_errno != .AGAIN) return failure;
        pause(10 * std.time.ns_per_ms);
        return 0;
    };
}

/// Waits until a write would not block, but no longer than that or until the next signal. True also where a write
/// would fail at once.
pub fn awaitRoom(fd: Fd, timeout_milliseconds: i32) bool {
    var polled = [1]linux.pollfd{.{ .fd = fd, .events = linux.POLL.OUT, .revents = 0 }};
    const count = linux.poll(&polled, 1, timeout_milliseconds);
    return fault(count) == .SUCCESS and count > 0;
}

pub fn sync(fd: Fd) Error!void {
    _ = again(linux.fsync, .{fd}) catch |failure| switch (last_errno) {
        .INVAL, .ROFS => {}, // a file system that has nothing to be synced
        else => return failure,
    };
}

pub fn rename(from: [*:0]const u8, to: [*:0]const u8) Error!void {
    _ = try checked(linux.rename(from, to));
}

pub fn unlink(path: [*:0]const u8) void {
    _ = linux.unlink(path);
}

/// Makes a directory; one that is there already is fine.
pub fn makeDirectory(path: [*:0]const u8) Error!void {
    _ = checked(linux.mkdir(path, 0o755)) catch |failure| {
        if (last_errno != .EXIST) return failure;
    };
}

pub fn changeDirectory(path: [*:0]const u8) Error!void {
    _ = try checked(linux.chdir(path));
}

/// Whether this process is now the only one with this lock on the file; it ends with the process.
pub fn lock(fd: Fd) bool {
    const exclusive = 2;
    const at_once = 4;
    const errno = fault(linux.flock(fd, exclusive | at_once));
    return errno != .AGAIN; // a file system without locks is no reason to refuse a job
}

const Protection = enum { read, write };

/// New memory, zeroed. Null if there is none left.
pub fn map(bytes: usize) ?[]align(4096) u8 {
    std.debug.assert(bytes > 0);
    return mapping(bytes, .write, -1) catch null;
}

/// Whether memory is so short that this is the likely reason of whatever has just failed.
pub fn memoryIsShort() bool {
    const memory = map(8 << 20) orelse return true;
    unmap(memory);
    return false;
}

/// A whole file as memory.
pub fn mapFile(fd: Fd, bytes: usize) Error![]align(4096) const u8 {
    std.debug.assert(bytes > 0);
    return mapping(bytes, .read, fd);
}

fn mapping(bytes: usize, protection: Protection, fd: Fd) Error![]align(4096) u8 {
    const result = try checked(linux.mmap(
        null,
        bytes,
        .{ .READ = true, .WRITE = protection == .write },
        .{ .TYPE = .PRIVATE, .ANONYMOUS = fd < 0 },
        fd,
        0,
    ));
    const start: [*]align(4096) u8 = @ptrFromInt(result);
    return start[0..bytes];
}

pub fn unmap(memory: []align(4096) const u8) void {
    _ = linux.munmap(memory.ptr, memory.len);
}

/// Milliseconds on a clock that only runs forward.
pub fn milliseconds() u64 {
    var time: [2]isize = undefined; // the kernel's old timespec: one register each
    const monotonic = 1;
    const result = linux.syscall2(.clock_gettime, monotonic, @intFromPtr(&time));
    std.debug.assert(fault(result) == .SUCCESS);
    return @as(u64, @intCast(time[0])) * 1000 + @as(u64, @intCast(time[1])) / 1_000_000;
}

pub fn pause(nanoseconds: isize) void {
    const time: [2]isize = .{ 0, nanoseconds };
    _ = linux.syscall2(.nanosleep, @intFromPtr(&time), 0);
}

/// The most memory that was resident at once, in KiB.
pub fn peakMemory() u64 {
    // VmHWM belongs to this program alone; getrusage also counts what ran in this process before it.
    return peakOfStatus() orelse {
        var usage: linux.rusage = undefined;
        const result = linux.getrusage(linux.rusage.SELF, &usage);
        std.debug.assert(fault(result) == .SUCCESS);
        return @intCast(usage.maxrss);
    };
}

fn peakOfStatus() ?u64 {
    const fd = open("/proc/self/status") catch return null;
    defer close(fd);
    var buffer: [4096]u8 = undefined;
    const length = read(fd, &buffer) catch return null;
    const key = "VmHWM:";
    const start = std.mem.indexOf(u8, buffer[0..length], key) orelse return null;
    var words = std.mem.tokenizeAny(u8, buffer[start + key.len .. length], " \t\n");
    return std.fmt.parseInt(u64, words.next() orelse return null, 10) catch null;
}

pub fn processId() u32 {
    return @intCast(linux.getpid());
}

pub fn exit(code: u8) noreturn {
    linux.exit_group(code);
}

fn handle(fd: Fd) usize {
    return @as(u32, @bitCast(fd));
}

/// Repeats a call that a signal interrupted.
fn again(comptime call: anytype, arguments: anytype) Error!usize {
    while (true) {
        return checked(@call(.auto, call, arguments)) catch |failure| {
            if (last_errno == .INTR) continue;
            return failure;
        };
    }
}
