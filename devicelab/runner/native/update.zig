//! What a job hands back: each client's delta, or their weighted sum, as a safetensors file.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const results = @import("result.zig");
const safetensors = @import("safetensors.zig");
const allFinite = @import("values.zig").allFinite;
const Value = @import("values.zig").Value;
const Values = @import("values.zig").Values;
const Combine = @import("job.zig").Combine;

const Failure = failures.Failure;
const fail = failures.fail;

const block = 4096; // numbers that are worked on at a time

pub const Facts = struct { norm: f64, clipped: bool };

/// Takes the clients' deltas one after the other.
pub const Update = struct {
    values: *const Values,
    combine: Combine,
    clip_norm: ?f64,
    alone: bool, // a sum of one client's delta is written as it comes, and takes no memory
    sums: []const []align(64) f64, // by shared value, for a sum of several
    writer: files.Writer,

    /// Opens the file. The update must stay where it is in memory.
    pub fn init(
        update: *Update,
        arena: *Arena,
        values: *const Values,
        combine: Combine,
        clip_norm: ?f64,
        clients: usize,
    ) Failure!void {
        const allocator = arena.allocator();
        update.* = .{
            .values = values,
            .combine = combine,
            .clip_norm = clip_norm,
            .alone = clients == 1,
            .sums = &.{},
            .writer = undefined,
        };
        try update.writer.create(results.update_name, try allocator.alloc(u8, files.Writer.buffer_bytes));
        errdefer update.writer.abandon();
        var entries: std.ArrayList(safetensors.Entry) = .empty;
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
        try safetensors.writeHeader(allocator, &update.writer, entries.items);
        if (combine == .sum and !update.alone) update.sums = try makeSums(arena, values);
    }

    /// Takes the delta of a client whose training has just ended.
    pub fn add(update: *Update, weight: f64) Failure!Facts {
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

    fn take(
        update: *Update,
        comptime T: type,
        value: *const Value,
        index: usize,
        scale: f64,
        weight: f64,
    ) Failure!void {
        var deltas: Deltas(T) = .init(update.values, value, scale);
        var place: usize = 0;
        while (deltas.next()) |numbers| {
            if (update.combine == .each) {
                try update.writer.write(std.mem.sliceAsBytes(numbers));
            } else if (update.alone) {
                var sum: [block]f64 = @splat(0);
                addWeighted(T, sum[0..numbers.len], weight, numbers);
                try update.writeSum(T, value, sum[0..numbers.len]);
            } else {
                addWeighted(T, update.sums[index][place..][0..numbers.len], weight, numbers);
                place += numbers.len;
            }
        }
    }

    /// Writes what is left to write, and gives the file its name.
    pub fn finish(update: *Update) Failure!files.Written {
        var index: usize = 0;
        if (update.combine == .sum and !update.alone) for (update.values.list) |*value| {
            if (!value.isShared()) continue;
            switch (value.input.dtype) {
                .f32 => try update.writeSum(f32, value, update.sums[index]),
                .f64 => try update.writeSum(f64, value, update.sums[index]),
                else => unreachable, // never shared
            }
            index += 1;
        };
        return update.writer.commit();
    }

    fn writeSum(update: *Update, comptime T: type, value: *const Value, sum: []const f64) Failure!void {
        var rest = sum;
        var rounded: [block]T = undefined;
        while (rest.len > 0) {
            const count = @min(block, rest.len);
            for (rest[0..count], rounded[0..count]) |number, *to| to.* = @floatCast(number);
            if (!allFinite(T, rounded[0..count])) return fail(
                error.NotFinite,
                "the sum of \"{}\" is not finite",
                .{value.input.name},
            );
            try update.writer.write(std.mem.sliceAsBytes(rounded[0..count]));
            rest = rest[count..];
        }
    }
};

fn addWeighted(comptime T: type, sums: []f64, weight: f64, numbers: []const T) void {
    for (sums, numbers) |*sum, number| sum.* += weight * number;
}

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

        fn next(deltas: *Self) ?[]const T {
            const count = @min(block, deltas.trained.len);
            if (count == 0) return null;
            const numbers = deltas.numbers[0..count];
            for (numbers, deltas.trained[0..count], deltas.first[0..count]) |*number, trained, first| {
                number.* = trained - first;
            }
            if (deltas.scale != 1) for (numbers) |*number| {
                number.* = @floatCast(@as(f64, number.*) * deltas.scale);
            };
            deltas.trained = deltas.trained[count..];
            deltas.first = deltas.first[count..];
            return numbers;
        }
    };
}
