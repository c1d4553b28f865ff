//! Files to be read, as memory; and files to be written, which take their names only once they are whole.

const std = @import("std");
const failures = @import("failure.zig");
const sys = @import("sys.zig");
const formattedZ = @import("text.zig").formattedZ;

const Failure = failures.Failure;
const fail = failures.fail;
const Sha256 = std.crypto.hash.sha2.Sha256;

pub const path_bytes_max = 4095;
const mapped_max = 8;

var mapped: [mapped_max]?[]align(4096) const u8 = @splat(null);

/// Whether an address lies in a file that is mapped now. Called from a signal's handler.
pub fn isMapped(address: usize) bool {
    for (mapped) |memory| {
        const bytes = memory orelse continue;
        if (address >= @intFromPtr(bytes.ptr) and address - @intFromPtr(bytes.ptr) < bytes.len) return true;
    }
    return false;
}

/// A whole file as memory. Close it with `unmap`.
pub fn map(path: [:0]const u8, bytes_max: u64) Failure![]const u8 {
    return try mapIfThere(path, bytes_max) orelse fail(error.Input, "{}: there is no such file", .{path});
}

/// As `map`; null if there is no file of that name.
pub fn mapIfThere(path: [:0]const u8, bytes_max: u64) Failure!?[]const u8 {
    const fd = sys.open(path) catch {
        if (sys.last_errno == .NOENT) return null;
        return fail(error.Input, "{}: {}", .{ path, sys.reason() });
    };
    defer sys.close(fd);
    const bytes = try size(path, fd);
    if (bytes > bytes_max) return fail(error.Input, "{}: {} bytes are more than {}", .{ path, bytes, bytes_max });
    if (bytes > std.math.maxInt(isize)) return fail(
        error.OutOfMemory,
        "{}: {} bytes do not fit into memory",
        .{ path, bytes },
    );
    const memory = sys.mapFile(fd, @intCast(bytes)) catch {
        const failure: Failure = if (sys.last_errno == .NOMEM) error.OutOfMemory else error.Input;
        return fail(failure, "{}: {}", .{ path, sys.reason() });
    };
    for (&mapped) |*place| {
        if (place.* != null) continue;
        place.* = memory;
        return memory;
    }
    unreachable; // nobody needs so many files at once
}

/// Fails if there is no such file, or nothing in it; for what the engine will read by itself.
pub fn require(path: [:0]const u8) Failure!void {
    const fd = sys.open(path) catch return fail(error.Input, "{}: {}", .{ path, sys.reason() });
    defer sys.close(fd);
    _ = try size(path, fd);
}

fn size(path: [:0]const u8, fd: sys.Fd) Failure!u64 {
    const bytes = sys.size(fd) catch return fail(error.Input, "{}: {}", .{ path, sys.reason() });
    return if (bytes > 0) bytes else fail(error.Input, "{}: it is empty, or no ordinary file", .{path});
}

pub fn unmap(memory: []const u8) void {
    for (&mapped) |*place| {
        const bytes = place.* orelse continue;
        if (bytes.ptr != memory.ptr) continue;
        place.* = null;
        return sys.unmap(bytes);
    }
    unreachable;
}

/// What has been written.
pub const Written = struct { bytes: u64, sha256: [64]u8 };

/// A file that is being written under a temporary name.
pub const Writer = struct {
    path: [:0]const u8,
    part: [path_bytes_max + 8]u8,
    fd: ?sys.Fd = null,
    hash: Sha256 = .init(.{}),
    bytes: u64 = 0,
    buffer: []u8,
    used: usize = 0,

    pub const buffer_bytes = 1 << 16;

    pub fn create(writer: *Writer, path: [:0]const u8, buffer: []u8) Failure!void {
        std.debug.assert(path.len <= path_bytes_max);
        writer.* = .{ .path = path, .part = undefined, .buffer = buffer };
        const part = formattedZ(&writer.part, "{}.part", .{path});
        writer.fd = sys.create(part) catch return fail(error.Output, "{}: {}", .{ part, sys.reason() });
    }

    pub fn write(writer: *Writer, bytes: []const u8) Failure!void {
        writer.hash.update(bytes);
        writer.bytes += bytes.len;
        var rest = bytes;
        while (rest.len > 0) {
            if (writer.used == writer.buffer.len) try writer.flush();
            const count = @min(rest.len, writer.buffer.len - writer.used);
            @memcpy(writer.buffer[writer.used..][0..count], rest[0..count]);
            writer.used += count;
            rest = rest[count..];
        }
    }

    fn flush(writer: *Writer) Failure!void {
        sys.writeAll(writer.fd.?, writer.buffer[0..writer.used]) catch return writer.failed();
        writer.used = 0;
    }

    /// Syncs the file and gives it its name.
    pub fn commit(writer: *Writer) Failure!Written {
        try writer.flush();
        sys.sync(writer.fd.?) catch return writer.failed();
        return writer.finish();
    }

    /// Gives the file its name, and leaves it to the caller to `sync` it.
    pub fn commitUnsynced(writer: *Writer) Failure!void {
        try writer.flush();
        _ = try writer.finish();
    }

    fn finish(writer: *Writer) Failure!Written {
        sys.close(writer.fd.?);
        writer.fd = null;
        sys.rename(writer.partName(), writer.path) catch return writer.failed();
        return .{ .bytes = writer.bytes, .sha256 = std.fmt.bytesToHex(writer.hash.finalResult(), .lower) };
    }

    /// Leaves nothing behind of a file that has not got its name.
    pub fn abandon(writer: *Writer) void {
        const fd = writer.fd orelse return;
        sys.close(fd);
        sys.unlink(writer.partName());
    }

    fn partName(writer: *const Writer) [*:0]const u8 {
        return @ptrCast(&writer.part);
    }

    fn failed(writer: *Writer) Failure {
        return fail(error.Output, "{}: {}", .{ writer.path, sys.reason() });
    }
};

/// Makes a file's content, or the names in a directory, durable.
pub fn sync(path: [:0]const u8) Failure!void {
    const fd = sys.open(path) catch return fail(error.Output, "{}: {}", .{ path, sys.reason() });
    defer sys.close(fd);
    sys.sync(fd) catch return fail(error.Output, "{}: {}", .{ path, sys.reason() });
}
