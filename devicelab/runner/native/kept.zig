//! What clients keep on the device: read before training, staged beside the job after it, renamed by `commit`.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const safetensors = @import("safetensors.zig");
const sys = @import("sys.zig");
const formattedZ = @import("text.zig").formattedZ;
const Value = @import("values.zig").Value;
const Values = @import("values.zig").Values;

const Failure = failures.Failure;
const fail = failures.fail;

pub const directory = "kept";

/// A client's file that is open.
pub const Kept = struct {
    file: []const u8,
    tensors: safetensors.Tensors,

    /// Null if there is no such file yet.
    pub fn open(arena: *Arena, path: [:0]const u8) Failure!?Kept {
        const file = try files.mapIfThere(path, std.math.maxInt(u64)) orelse return null;
        errdefer files.unmap(file);
        return .{ .file = file, .tensors = try safetensors.parse(arena.allocator(), file, path) };
    }

    pub fn close(kept: *Kept) void {
        files.unmap(kept.file);
    }
};

pub fn isKept(value: *const Value, keep_state: bool) bool {
    return value.trained and (value.input.role == .private or (value.input.role == .state and keep_state));
}

/// Whether a job has anything to keep.
pub fn any(values: *const Values, keep_state: bool) bool {
    for (values.list) |*value| {
        if (isKept(value, keep_state)) return true;
    }
    return false;
}

pub const Name = [48]u8;

/// Where a client's values wait for the commit.
pub fn stagedName(buffer: *Name, index: usize) [:0]const u8 {
    return formattedZ(buffer, directory ++ "/{}.safetensors", .{index});
}

/// Writes a client's values beside the job.
pub fn stage(arena: *Arena, values: *const Values, keep_state: bool, index: usize) Failure!void {
    const allocator = arena.allocator();
    var entries: std.ArrayList(safetensors.Entry) = .empty;
    for (values.list) |*value| {
        if (!isKept(value, keep_state)) continue;
        try entries.append(
            allocator,
            .{ .name = value.input.name, .dtype = value.input.dtype, .shape = value.input.shape },
        );
    }
    var name: Name = undefined;
    const writer = try allocator.create(files.Writer);
    try writer.create(stagedName(&name, index), try allocator.alloc(u8, files.Writer.buffer_bytes));
    errdefer writer.abandon();
    try safetensors.writeHeader(allocator, writer, entries.items);
    for (values.list) |*value| {
        if (isKept(value, keep_state)) try writer.write(values.present(value));
    }
    try writer.commitUnsynced();
}

/// Makes what was staged durable. All at once, when the system has mostly written it by itself.
pub fn sync(clients: usize) Failure!void {
    var name: Name = undefined;
    for (0..clients) |index| try files.sync(stagedName(&name, index));
    try files.sync(directory);
}
