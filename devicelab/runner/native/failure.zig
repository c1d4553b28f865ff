//! What can go wrong, as the contract's codes. Whoever finds a failure says so once, in words, with `fail`.

const Text = @import("text.zig").Text;

pub const Failure = error{
    Usage,
    Job,
    Input,
    Engine,
    OutOfMemory, // so that std's allocators' error is one of ours
    Output,
    Pipe,
    Stopped,
    NotFinite,
};

const message_bytes_max = 2048;

var message_buffer: [message_bytes_max]u8 = undefined;
var message_length: usize = 0;

/// The client that is being worked on, for the error line.
pub var client: ?[]const u8 = null;

/// Notes the message and returns the failure: `return fail(error.Input, "{}: too short", .{path})`.
pub noinline fn fail(failure: Failure, comptime format: []const u8, arguments: anytype) Failure {
    @branchHint(.cold);
    var text: Text = .{ .buffer = &message_buffer }; // what does not fit is cut off
    text.print(format, arguments);
    message_length = text.written().len;
    return failure;
}

pub fn message(failure: Failure) []const u8 {
    if (message_length > 0) return message_buffer[0..message_length];
    return switch (failure) {
        error.OutOfMemory => "out of memory",
        else => @errorName(failure),
    };
}

pub fn code(failure: Failure) []const u8 {
    return switch (failure) {
        error.Usage => "usage",
        error.Job => "job",
        error.Input => "input",
        error.Engine => "engine",
        error.OutOfMemory => "memory",
        error.Output => "output",
        error.Pipe => "pipe",
        error.Stopped => "stopped",
        error.NotFinite => "not-finite",
    };
}

pub fn exitCode(failure: Failure) u8 {
    return switch (failure) {
        error.Usage => 64,
        error.Job => 65,
        error.Input => 66,
        error.Engine => 70,
        error.OutOfMemory => 71,
        error.Output => 73,
        error.Pipe => 74,
        error.Stopped => 75,
        error.NotFinite => 76,
    };
}
