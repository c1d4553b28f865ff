//! The timer that drives the heartbeat, the signals that stop a job, and those that say that a step crashed.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const messages = @import("messages.zig");
const sys = @import("sys.zig");

const linux = std.os.linux;
const SIG = linux.SIG;

const beat_nanoseconds = 500 * std.time.ns_per_ms; // twice as often as promised

var stop_signal: u32 = 0;

var crash_stack: [64 << 10]u8 align(64) = undefined;

/// Installs all handlers. They write nothing before the heartbeat starts.
pub fn install() void {
    const stack: linux.stack_t = .{ .sp = &crash_stack, .flags = 0, .size = crash_stack.len };
    std.debug.assert(linux.errno(linux.sigaltstack(&stack, null)) == .SUCCESS);
    handle(.PIPE, SIG.IGN, 0);
    handle(.XFSZ, SIG.IGN, 0);
    handle(.ALRM, alarm, linux.SA.RESTART);
    handle(.TERM, stop, linux.SA.RESTART);
    // Who starts a program with these ignored (nohup, a shell's background) means it.
    for ([_]SIG{ .HUP, .INT }) |signal| {
        var old: linux.Sigaction = undefined;
        std.debug.assert(linux.errno(linux.sigaction(signal, null, &old)) == .SUCCESS);
        if (old.handler.handler != SIG.IGN) handle(signal, stop, linux.SA.RESTART);
    }
    for ([_]SIG{ .SEGV, .BUS, .ILL, .FPE, .ABRT, .SYS }) |signal| {
        const action: linux.Sigaction = .{
            .handler = .{ .sigaction = crash },
            .mask = linux.sigemptyset(),
            .flags = linux.SA.SIGINFO | linux.SA.ONSTACK | linux.SA.RESETHAND,
        };
        std.debug.assert(linux.errno(linux.sigaction(signal, &action, null)) == .SUCCESS);
    }
}

/// From now on the heartbeat is heard. The timer's signal goes to this thread alone, whatever threads the engine has.
pub fn startHeartbeat() void {
    const Event = extern struct { value: usize, signal: c_int, notify: c_int, thread: c_int, rest: [52]u8 };
    const to_thread = 4;
    const monotonic = 1;
    const event: Event = .{
        .value = 0,
        .signal = @backingInt(SIG.ALRM),
        .notify = to_thread,
        .thread = linux.gettid(),
        .rest = @splat(0),
    };
    var timer: c_int = 0;
    const made = linux.syscall3(.timer_create, monotonic, @intFromPtr(&event), @intFromPtr(&timer));
    std.debug.assert(linux.errno(made) == .SUCCESS);
    const period: [4]isize = .{ 0, beat_nanoseconds, 0, beat_nanoseconds };
    const set = linux.syscall4(.timer_settime, @as(u32, @bitCast(timer)), 0, @intFromPtr(&period), 0);
    std.debug.assert(linux.errno(set) == .SUCCESS);
    messages.end();
}

/// Fails once a signal asked for an end, or nobody reads what is printed.
pub fn check() failures.Failure!void {
    const signal = @atomicLoad(u32, &stop_signal, .seq_cst);
    if (signal == 0) return messages.check();
    return failures.fail(error.Stopped, "stopped by signal {}", .{signal});
}

fn handle(signal: SIG, handler: ?linux.Sigaction.handler_fn, flags: c_ulong) void {
    const action: linux.Sigaction = .{
        .handler = .{ .handler = handler },
        .mask = linux.sigemptyset(),
        .flags = flags,
    };
    std.debug.assert(linux.errno(linux.sigaction(signal, &action, null)) == .SUCCESS);
}

fn alarm(_: SIG) callconv(.c) void {
    messages.tick();
}

fn stop(signal: SIG) callconv(.c) void {
    @atomicStore(u32, &stop_signal, @backingInt(signal), .seq_cst);
    messages.leave();
}

/// A file that was cut short while it is mapped, or a defect of the engine's or ours. Memory cannot be trusted any
/// more, so this is the end; but the host hears why.
fn crash(signal: SIG, info: *const linux.siginfo_t, _: ?*anyopaque) callconv(.c) void {
    const address = @intFromPtr(info.fields.sigfault.addr);
    const failure = if (signal == .BUS and files.isMapped(address))
        failures.fail(error.Input, "a file was cut short while it was read", .{})
    else
        failures.fail(
            if (sys.memoryIsShort()) error.OutOfMemory else error.Engine,
            "crashed with signal {}",
            .{@backingInt(signal)},
        );
    messages.failed(failure);
    sys.exit(failures.exitCode(failure));
}
