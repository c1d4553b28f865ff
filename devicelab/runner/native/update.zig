//! What a job hands back: each client's delta, or their weighted sum, as a safetensors file.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const safetensors = @import("safetensors.zig");
const Text = @import("text.zig").Text;
const formatted = @import("text.zig").formatted;
const Dtype = @import("dtype.zig").Dtype;
const Shape = @import("dtype.zig").Shape;
const allFinite = @import("values.zig").allFinite;
const Value = @import("values.zig").Value;
const Values = @import("values.zig").Values;
const Combine = @import("job.zig").Combine;

const Failure = failures.Failure;
const fail = failures.fail;

const block = 4096; // numbers that are worked on at a time

/// What a safetensors header says of a tensor.
pub const Entry = struct { prefix: ?usize = null, name: []const u8, dtype: Dtype, shape: Shape };

/// Writes the header of a safetensors file. The tensors' bytes must follow, in this order.
pub noinline fn writeHeader(arena: *Arena, writer: *files.Writer, entries: []const Entry) Failure!void {
    if (entries.len > safetensors.tensors_max)
        return fail(error.Job, "{} would hold {} tensors, more than {}", .{ writer.path, entries.len, safetensors.tensors_max });
    var count: Text = .{};
    header(&count, entries);
    const padded = std.mem.alignForward(usize, count.length, 8);
    if (padded > safetensors.header_bytes_max)
        return fail(error.Job, "{} would have a header of {} bytes, more than {}", .{ writer.path, padded, safetensors.header_bytes_max });
    const buffer = try arena.allocator().alloc(u8, 8 + padded);
    std.mem.writeInt(u64, buffer[0..8], padded, .little);
    @memset(buffer[8..], ' ');
    var text: Text = .{ .buffer = buffer[8..] };
    header(&text, entries);
    std.debug.assert(text.length == count.length);
    try writer.write(buffer);
}

fn header(text: *Text, entries: []const Entry) void {
    var place: u64 = 0;
    text.raw("{");
    for (entries, 0..) |*entry, i| {
        if (i > 0) text.raw(",");
        var buffer: [safetensors.name_bytes_max + 32]u8 = undefined;
        text.string(if (entry.prefix) |index|
            formatted(&buffer, "{}/{}", .{ index, entry.name })
        else
            entry.name);
        text.print(":{\"dtype\":\"{}\",\"shape\":[", .{entry.dtype.label()});
        for (entry.shape.slice(), 0..) |size, axis| {
            if (axis > 0) text.raw(",");
            text.print("{}", .{size});
        }
        const end = place + entry.shape.bytes(entry.dtype).?;
        text.print("],\"data_offsets\":[{},{}]}", .{ place, end });
        place = end;
    }
    text.raw("}");
}

pub const Facts = struct { norm: f64, clipped: bool };
pub const File = struct { bytes: u64, sha256: [64]u8 };

/// Takes the clients' deltas one after the other.
pub const Update = struct {
    values: *const Values,
    combine: Combine,
    clip_norm: ?f64,
    sums: []const []align(64) f64, // by shared value, for `sum`
    writer: files.Writer,

    pub const name = "update.safetensors";

    /// Opens the file. The update must stay where it is in memory.
    pub fn init(update: *Update, arena: *Arena, values: *const Values, combine: Combine, clip_norm: ?f64, clients: usize) Failure!void {
        const allocator = arena.allocator();
        update.* = .{ .values = values, .combine = combine, .clip_norm = clip_norm, .sums = &.{}, .writer = undefined };
        try update.writer.create(name, try allocator.alloc(u8, files.Writer.buffer_bytes));
        errdefer update.writer.abandon();
        var entries: std.ArrayList(Entry) = .empty;
        for (0..if (combine == .each) clients else 1) |index| {
            for (values.list) |*value| {
                if (!value.isShared()) continue;
                if (entries.items.len > safetensors.tensors_max) break;
                try entries.append(allocator, .{
                    .prefix = if (combine == .each) index else null,
                    .name = value.input.name,
                    .dtype = value.input.dtype,
                    .shape = value.input.shape,
                });
            }
        }
        try writeHeader(arena, &update.writer, entries.items);
        if (combine == .sum) update.sums = try makeSums(arena, values);
    }

    /// Takes the delta of a client whose training has just ended.
    pub noinline fn add(update: *Update, weight: f64) Failure!Facts {
        var squares: f64 = 0;
        for (update.values.list) |*value| {
            if (value.isShared()) squares += switch (value.input.dtype) {
                .f32 => sumOfSquares(f32, update.values, value),
                .f64 => sumOfSquares(f64, update.values, value),
                else => unreachable, // never shared
            };
        }
        const norm = @sqrt(squares);
        if (!std.math.isFinite(norm)) return fail(error.NotFinite, "the change of the parameters is not finite", .{});
        const limit = update.clip_norm orelse std.math.inf(f64);
        const clipped = norm > limit;
        const scale = if (clipped) limit / norm else 1;
        var index: usize = 0;
        for (update.values.list) |*value| {
            if (!value.isShared()) continue;
            switch (value.input.dtype) {
                .f32 => try update.take(f32, value, index, scale, weight),
                .f64 => try update.take(f64, value, index, scale, weight),
                else => unreachable, // never shared
            }
            index += 1;
        }
        return .{ .norm = norm, .clipped = clipped };
    }

    fn take(update: *Update, comptime T: type, value: *const Value, index: usize, scale: f64, weight: f64) Failure!void {
        var deltas: Deltas(T) = .init(update.values, value, scale);
        var place: usize = 0;
        while (deltas.next()) |numbers| {
            if (update.combine == .each) {
                try update.writer.write(std.mem.sliceAsBytes(numbers));
                continue;
            }
            for (update.sums[index][place..][0..numbers.len], numbers) |*sum, number| sum.* += weight * number;
            place += numbers.len;
        }
    }

    /// Writes what is left to write, and gives the file its name.
    pub noinline fn finish(update: *Update) Failure!File {
        var index: usize = 0;
        if (update.combine == .sum) for (update.values.list) |*value| {
            if (!value.isShared()) continue;
            switch (value.input.dtype) {
                .f32 => try update.writeSum(f32, value, index),
                .f64 => try update.writeSum(f64, value, index),
                else => unreachable, // never shared
            }
            index += 1;
        };
        const sha256 = try update.writer.commit();
        return .{ .bytes = update.writer.bytes, .sha256 = sha256 };
    }

    fn writeSum(update: *Update, comptime T: type, value: *const Value, index: usize) Failure!void {
        var rest: []const f64 = update.sums[index];
        var rounded: [block]T = undefined;
        while (rest.len > 0) {
            const count = @min(block, rest.len);
            for (rest[0..count], rounded[0..count]) |sum, *number| number.* = @floatCast(sum);
            if (!allFinite(T, rounded[0..count])) return fail(error.NotFinite, "the sum of \"{}\" is not finite", .{value.input.name});
            try update.writer.write(std.mem.sliceAsBytes(rounded[0..count]));
            rest = rest[count..];
        }
    }
};

fn makeSums(arena: *Arena, values: *const Values) Failure![]const []align(64) f64 {
    var sums: std.ArrayList([]align(64) f64) = .empty;
    for (values.list) |*value| {
        if (!value.isShared()) continue;
        const bytes = value.input.shape.bytes(.f64) orelse return error.OutOfMemory;
        const memory = try arena.tensor(bytes); // zeroed
        try sums.append(arena.allocator(), @ptrCast(memory));
    }
    return sums.items;
}

fn sumOfSquares(comptime T: type, values: *const Values, value: *const Value) f64 {
    var deltas: Deltas(T) = .init(values, value, 1);
    var sum: f64 = 0;
    while (deltas.next()) |numbers| {
        for (numbers) |number| sum += @as(f64, number) * number;
    }
    return sum;
}

/// A value's delta, trained minus first, block by block. It is in the parameter's own type, also after scaling.
fn Deltas(comptime T: type) type {
    return struct {
        trained: []const T,
        first: []align(1) const T,
        scale: f64,
        numbers: [block]T = undefined,

        const Self = @This();

        fn init(values: *const Values, value: *const Value, scale: f64) Self {
            return .{
                .trained = @ptrCast(values.present(value)),
                .first = @ptrCast(value.first.?), // shared values are in the parameters' file
                .scale = scale,
            };
        }

        noinline fn next(deltas: *Self) ?[]const T {
            const count = @min(block, deltas.trained.len);
            if (count == 0) return null;
            const numbers = deltas.numbers[0..count];
            for (numbers, deltas.trained[0..count], deltas.first[0..count]) |*to, trained, first| to.* = trained - first;
            if (deltas.scale != 1) for (numbers) |*number| {
                number.* = @floatCast(@as(f64, number.*) * deltas.scale);
            };
            deltas.trained = deltas.trained[count..];
            deltas.first = deltas.first[count..];
            return numbers;
        }
    };
}
