//! The lines on stdout: hello, progress as a heartbeat, one done or error. Each is one write, unless it is very long.
//!
//! A timer's signal writes the progress line, so that a long step is no silence. The main flow changes what the line
//! says, and writes lines of its own, only between `begin` and `end`; a signal that falls in between is made up for
//! at the end.

const std = @import("std");
const failures = @import("failure.zig");
const options = @import("options");
const sys = @import("sys.zig");
const Text = @import("text.zig").Text;

const Failure = failures.Failure;
const fail = failures.fail;

pub const protocol = 1;
const stdout = 1;

const Progress = struct {
    client: ?[]const u8 = null,
    index: u64 = 0,
    clients: u64 = 0,
    step: u64 = 0,
    steps: u64 = 0,
    loss: f64 = std.math.nan(f64),
    examples: u64 = 0,
};

/// What the next progress line says.
var progress: Progress = .{};

/// Ends the step that is running. Called from signals' handlers.
pub var interrupt: ?*const fn () void = null;

fn interruptStep() void {
    if (interrupt) |function| function();
}

var leaving = false;

/// The job is to end: now, and not when the reader of stdout pleases. Called from signals' handlers.
pub fn leave() void {
    @atomicStore(bool, &leaving, true, .seq_cst);
    interruptStep();
}

var started: u64 = 0;
var busy = true; // no progress before the hello
var due = false;
var unwritable: ?sys.Errno = null;

/// What comes is about this client.
pub fn beginClient(client: []const u8, index: usize, clients: usize) void {
    begin();
    progress = .{ .client = client, .index = index, .clients = clients, .examples = progress.examples };
    end();
}

/// A step is done.
pub fn report(step: u64, steps: u64, loss: f64, examples: u64) void {
    begin();
    progress.step = step;
    progress.steps = steps;
    progress.loss = loss;
    progress.examples += examples;
    end();
}

fn begin() void {
    @atomicStore(bool, &busy, true, .seq_cst);
}

pub fn end() void {
    while (true) {
        @atomicStore(bool, &busy, false, .seq_cst);
        if (!@atomicLoad(bool, &due, .seq_cst)) return;
        begin();
        @atomicStore(bool, &due, false, .seq_cst);
        beat();
    }
}

/// The timer's signal.
pub fn tick() void {
    if (@atomicLoad(bool, &busy, .seq_cst)) {
        @atomicStore(bool, &due, true, .seq_cst);
    } else {
        beat();
    }
}

pub fn elapsed() u64 {
    return sys.milliseconds() - started;
}

pub fn hello(engine: []const u8) Failure!void {
    started = sys.milliseconds();
    var buffer: [512]u8 = undefined;
    var text: Text = .{ .buffer = &buffer };
    text.print("{\"type\":\"hello\",\"protocol\":{},\"runner\":", .{protocol});
    text.string(options.version);
    text.raw(",\"engine\":");
    text.string(engine[0..@min(engine.len, 64)]);
    text.print(",\"abi\":\"{}\",\"system\":\"{}\",\"pid\":{}}\n", .{ options.abi, options.system, sys.processId() });
    std.debug.assert(text.fits());
    try line(text.written());
}

/// Writes a line of the main flow.
pub fn line(bytes: []const u8) Failure!void {
    begin();
    say(bytes) catch |failure| switch (failure) {
        error.Leaving => return fail(error.Stopped, "stopped while nobody read stdout", .{}),
        error.System => unwritable = sys.last_errno,
    };
    try check();
}

const chunk_bytes = 4096; // a pipe or socket that has any room has as much
const poll_milliseconds = 100;

/// How often the reader is waited for once the job is to end: one second in all, whatever the number of lines.
var last_polls: u32 = 10;

/// Waits for a reader who is slow, but not when the job is to end.
fn say(bytes: []const u8) (sys.Error || error{Leaving})!void {
    var rest = bytes;
    while (rest.len > 0) {
        if (sys.awaitRoom(stdout, if (last_polls > 0) poll_milliseconds else 0)) {
            rest = rest[try sys.write(stdout, rest[0..@min(rest.len, chunk_bytes)])..];
        } else if (@atomicLoad(bool, &leaving, .seq_cst)) {
            if (last_polls == 0) return error.Leaving;
            last_polls -|= 1;
        }
    }
}

/// Fails if a line could not be written, be it one of the timer's.
pub fn check() Failure!void {
    const errno = unwritable orelse return;
    sys.last_errno = errno;
    return switch (errno) {
        .PIPE, .BADF => fail(error.Pipe, "stdout: {}", .{sys.reason()}),
        else => fail(error.Output, "stdout: {}", .{sys.reason()}),
    };
}

/// The last line. It may find no reader; the exit code says the same.
pub fn failed(failure: Failure) void {
    begin();
    var buffer: [16384]u8 = undefined;
    var text: Text = .{ .buffer = &buffer };
    text.print("{\"type\":\"error\",\"code\":\"{}\",\"message\":", .{failures.code(failure)});
    text.string(failures.message(failure));
    if (failures.client) |client| {
        text.raw(",\"client\":");
        text.string(client);
    }
    text.raw("}\n");
    std.debug.assert(text.fits());
    say(text.written()) catch {};
}

fn beat() void {
    if (unwritable != null) return;
    var buffer: [512]u8 = undefined;
    var text: Text = .{ .buffer = &buffer };
    text.raw("{\"type\":\"progress\"");
    if (progress.client) |client| {
        text.raw(",\"client\":");
        text.string(client);
        text.print(",\"index\":{},\"clients\":{}", .{ progress.index, progress.clients });
        text.print(",\"step\":{},\"steps\":{},\"loss\":", .{ progress.step, progress.steps });
        text.number(progress.loss);
        text.print(",\"examples\":{}", .{progress.examples});
    }
    text.print(",\"ms\":{}}\n", .{elapsed()});
    std.debug.assert(text.fits());
    say(text.written()) catch |failure| switch (failure) {
        error.Leaving => {}, // the main flow knows
        error.System => {
            unwritable = sys.last_errno;
            interruptStep();
        },
    };
}
