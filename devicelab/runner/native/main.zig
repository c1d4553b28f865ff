//! The runner: trains, evaluates or runs ONNX graphs with the stock ONNX Runtime. The contract is docs/runner.md.
//!
//! There is no libc here. The dynamic linker loads the engine, and the engine's own libc is set up before `_start`
//! runs; this program makes its own system calls and calls the engine's C API, nothing else. That is why `_start` is
//! ours (std's would set up thread-local storage, over the one that the linker made), why it is left by exit_group,
//! and why one source serves Android's bionic and Linux's glibc.

const std = @import("std");
const builtin = @import("builtin");
const failures = @import("failure.zig");
const files = @import("files.zig");
const jobs = @import("job.zig");
const Arena = @import("memory.zig").Arena;
const messages = @import("messages.zig");
const ort = @import("ort.zig");
const results = @import("result.zig");
const signals = @import("signals.zig");
const sys = @import("sys.zig");

const Failure = failures.Failure;
const fail = failures.fail;

pub const panic = @import("panic.zig");

const Verb = enum { train, evaluate, run, commit, info };

pub export fn _start() callconv(.naked) noreturn {
    switch (builtin.cpu.arch) {
        .x86_64 => asm volatile (
            \\ xorl %%ebp, %%ebp
            \\ movq %%rsp, %%rdi
            \\ andq $-16, %%rsp
            \\ callq runner_main
        ),
        .x86 => asm volatile (
            \\ xorl %%ebp, %%ebp
            \\ movl %%esp, %%eax
            \\ andl $-16, %%esp
            \\ subl $12, %%esp
            \\ pushl %%eax
            \\ calll runner_main
        ),
        .aarch64 => asm volatile (
            \\ mov x29, xzr
            \\ mov x30, xzr
            \\ mov x0, sp
            \\ b runner_main
        ),
        .arm => asm volatile (
            \\ mov fp, #0
            \\ mov lr, #0
            \\ mov r0, sp
            \\ bic sp, sp, #7
            \\ b runner_main
        ),
        else => @compileError("no entry for this architecture"),
    }
}

/// The stack as the kernel leaves it: the number of arguments, the arguments, …
export fn runner_main(stack: [*]const usize) callconv(.c) noreturn {
    const count = stack[0];
    const arguments: [*]const [*:0]const u8 = @ptrCast(stack + 1);
    run(arguments[0..count]) catch |failure| {
        messages.failed(failure);
        sys.exit(failures.exitCode(failure));
    };
    sys.exit(0);
}

fn run(arguments: []const [*:0]const u8) Failure!void {
    signals.install();
    try messages.hello(ort.version());
    const usage = "usage: devicelab-runner train|evaluate|run|commit JOB.json, or devicelab-runner info";
    if (arguments.len < 2) return fail(error.Usage, usage, .{});
    const verb = std.meta.stringToEnum(Verb, std.mem.span(arguments[1])) orelse return fail(error.Usage, usage, .{});
    if (arguments.len != @as(usize, if (verb == .info) 2 else 3)) return fail(error.Usage, usage, .{});
    if (verb == .info) return ort.open();
    signals.startHeartbeat();
    var arena: Arena = .{};
    const job = try openJob(&arena, std.mem.span(arguments[2]));
    try checkVerb(&job, verb);
    if (verb == .commit) return @import("commit.zig").commit(&arena, &job);
    if (try results.previous(&job)) |line| return messages.line(line);
    try ort.open();
    switch (verb) {
        .train => try @import("train.zig").train(&arena, &job),
        .evaluate => try @import("evaluate.zig").evaluate(&arena, &job),
        .run => try @import("graphrun.zig").runGraph(&arena, &job),
        .commit, .info => unreachable, // done above
    }
}

fn checkVerb(job: *const jobs.Job, verb: Verb) Failure!void {
    const wanted: jobs.Verb = switch (verb) {
        .train, .commit => .train,
        .evaluate => .evaluate,
        .run => .run,
        .info => unreachable, // has no job
    };
    if (job.verb != wanted) return fail(error.Job, "job.json is one to {}, not to {}", .{ job.verb, verb });
}

/// Reads a job, and makes its directory the current one: paths in it are relative to that.
fn openJob(arena: *Arena, path: [:0]const u8) Failure!jobs.Job {
    if (path.len == 0 or path.len > files.path_bytes_max) return fail(
        error.Usage,
        "the job's path is empty or too long",
        .{},
    );
    const slash = std.mem.lastIndexOfScalar(u8, path, '/');
    const base = if (slash) |at| path[at + 1 ..] else path;
    if (slash) |at| {
        const directory = try arena.allocator().dupeSentinel(u8, path[0 .. at + 1], 0);
        sys.changeDirectory(directory) catch return fail(error.Job, "{}: {}", .{ directory, sys.reason() });
    }
    const fd = sys.open(base) catch return fail(error.Job, "{}: {}", .{ path, sys.reason() });
    // Never closed: the lock lasts as long as the process.
    if (!sys.lock(fd)) return fail(error.Job, "{}: another runner is at work on it", .{path});
    const bytes = sys.size(fd) catch return fail(error.Job, "{}: {}", .{ path, sys.reason() });
    if (bytes > jobs.bytes_max) return fail(error.Job, "{} is longer than {} bytes", .{ path, jobs.bytes_max });
    const text = try arena.allocator().alloc(u8, @intCast(bytes));
    var length: usize = 0;
    while (length < text.len) {
        const count = sys.readAt(fd, text[length..], length) catch return fail(
            error.Job,
            "{}: {}",
            .{ path, sys.reason() },
        );
        if (count == 0) return fail(error.Job, "{}: it became shorter", .{path});
        length += count;
    }
    return jobs.parse(arena.allocator(), text);
}
