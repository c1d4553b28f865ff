//! The runner's readers without the runner, for tests that give them thousands of damaged inputs.
//!
//! Reads frames from stdin, each a letter for the reader, four bytes of length and the input, and answers each with
//! one byte: 0 if the input was accepted, else the exit code that the runner would end with. Stops at the end of stdin.

const std = @import("std");
const failures = @import("failure.zig");
const graph = @import("graph.zig");
const job = @import("job.zig");
const Arena = @import("memory.zig").Arena;
const safetensors = @import("safetensors.zig");
const shards = @import("shard.zig");
const signature = @import("signature.zig");
const sys = @import("sys.zig");
const tables = @import("tables.zig");

const input_bytes_max = 64 << 20;

pub fn main() void {
    var memory: Arena = .{};
    while (true) {
        var header: [5]u8 = undefined;
        if (!receive(&header)) return;
        const length = std.mem.readInt(u32, header[1..5], .little);
        std.debug.assert(length <= input_bytes_max);
        // Exactly as long as the input, so that reading beyond it is noticed where it ends with a page.
        const input = memory.tensor(length) catch unreachable;
        std.debug.assert(receive(input));
        var arena: Arena = .{};
        var answer: u8 = 0;
        read(&arena, header[0], input) catch |failure| {
            std.debug.assert(failures.message(failure).len > 0);
            answer = failures.exitCode(failure);
        };
        arena.reset();
        memory.reset();
        sys.writeAll(1, &.{answer}) catch return;
    }
}

/// False at the end of stdin.
fn receive(buffer: []u8) bool {
    var rest = buffer;
    while (rest.len > 0) {
        const count = sys.read(0, rest) catch unreachable;
        if (count == 0) return false;
        rest = rest[count..];
    }
    return true;
}

fn read(arena: *Arena, reader: u8, input: []const u8) failures.Failure!void {
    const allocator = arena.allocator();
    switch (reader) {
        'j' => {
            const parsed = try job.parse(allocator, input);
            std.debug.assert(parsed.id.len > 0);
            std.debug.assert(parsed.verb == .run or parsed.clients.len > 0);
        },
        't' => {
            const tensors = try safetensors.parse(allocator, input, "fuzz");
            var total: usize = 0;
            for (tensors.sorted) |*tensor| {
                total += tensors.bytes(tensor).len;
                std.debug.assert(tensors.find(tensor.name) == tensor);
            }
            std.debug.assert(total == tensors.data.len);
        },
        's' => {
            const parsed = try signature.parse(allocator, input);
            for (parsed.inputs) |*each| {
                std.debug.assert(each.label().len > 0);
                if (each.of) |of| std.debug.assert(of < parsed.inputs.len);
                _ = each.shape.bytes(each.dtype).?;
            }
            for (parsed.outputs) |*each| {
                if (each.replaces) |replaced| std.debug.assert(replaced < parsed.inputs.len);
            }
        },
        'r' => try readRows(arena, input),
        'g' => _ = graph.hasAddingScatter(input) catch return error.Input,
        else => unreachable,
    }
}

/// A signature's length in four bytes, the signature, and tensors: some rows of its tables, and a shard.
fn readRows(arena: *Arena, input: []const u8) failures.Failure!void {
    if (input.len < 4) return error.Input;
    const rest = input[4..];
    const length = std.mem.readInt(u32, input[0..4], .little);
    if (length > rest.len) return error.Input;
    var plan = try signature.parse(arena.allocator(), rest[0..length]);
    const tensors = try safetensors.parse(arena.allocator(), rest[length..], "fuzz");
    const selections = try tables.select(arena.allocator(), &plan, null, &tensors);
    const shard: shards.Shard = try .check(arena, &tensors, &.{&plan}, selections);
    for (plan.inputs) |*each| {
        const selection = tables.find(selections, each.rows) orelse continue;
        if (each.isTable()) {
            std.debug.assert(each.shape.sizes[0] == selection.rows.len);
        } else switch (each.dtype) {
            .i64 => checkPlaces(i64, selection, tensors.bytes(tensors.find(each.label()).?), shard.source(each)),
            .i32 => checkPlaces(i32, selection, tensors.bytes(tensors.find(each.label()).?), shard.source(each)),
            else => unreachable,
        }
    }
}

fn checkPlaces(comptime T: type, selection: *const tables.Selection, numbers: []const u8, places: []const u8) void {
    const before: []align(1) const T = @ptrCast(numbers);
    const after: []align(1) const T = @ptrCast(places);
    for (before, after) |number, place| std.debug.assert(selection.rows[@intCast(place)] == number);
}
