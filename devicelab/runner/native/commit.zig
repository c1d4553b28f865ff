//! Private values of a finished job take their place: the verb `commit`.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Job = @import("job.zig").Job;
const keeping = @import("kept.zig");
const Arena = @import("memory.zig").Arena;
const messages = @import("messages.zig");
const results = @import("result.zig");
const sys = @import("sys.zig");
const Text = @import("text.zig").Text;

const Failure = failures.Failure;
const fail = failures.fail;

/// Renames what clients keep to its place. Repeating it does no harm.
pub fn commit(arena: *Arena, job: *const Job) Failure!void {
    const line = try results.previous(job) orelse
        return fail(error.Job, "the job is not finished, so there is nothing to commit", .{});
    files.unmap(line);
    var moved: usize = 0;
    if (sys.exists(keeping.directory)) for (job.clients, 0..) |*client, index| {
        failures.client = client.id;
        var name: keeping.Name = undefined;
        if (try move(arena, keeping.stagedName(&name, index), client.kept.?)) moved += 1;
    };
    failures.client = null;
    var buffer: [256]u8 = undefined;
    var text: Text = .{ .buffer = &buffer };
    text.raw("{\"type\":\"done\",\"job\":");
    text.string(job.id);
    text.print(",\"committed\":{},\"peak_rss_kb\":{}}\n", .{ moved, sys.peakMemory() });
    std.debug.assert(text.fits());
    try messages.line(text.written());
}

/// False if it was moved before.
fn move(arena: *Arena, staged: [:0]const u8, kept: [:0]const u8) Failure!bool {
    const slash = std.mem.lastIndexOfScalar(u8, kept, '/') orelse 0;
    const parent = try arena.allocator().dupeSentinel(u8, if (slash == 0) "." else kept[0..slash], 0);
    try makeParents(parent);
    sys.rename(staged, kept) catch {
        if (sys.last_errno != .NOENT) return fail(error.Output, "{}: {}", .{ kept, sys.reason() });
        if (sys.exists(kept)) return false;
        return fail(error.Input, "{}: there is no such file, nor is there {}", .{ staged, kept });
    };
    try files.sync(parent);
    return true;
}

fn makeParents(path: [:0]u8) Failure!void {
    for (path[1..], 1..) |byte, i| {
        if (byte != '/') continue;
        path[i] = 0;
        _ = sys.makeDirectory(path[0..i :0]) catch {};
        path[i] = '/';
    }
    sys.makeDirectory(path) catch return fail(error.Output, "{}: {}", .{ path, sys.reason() });
}
