//! What a signature's parts must have to do with each other.

const std = @import("std");
const failures = @import("failure.zig");
const signatures = @import("signature.zig");

const Failure = failures.Failure;
const Output = signatures.Output;
const Signature = signatures.Signature;

fn bad(comptime format: []const u8, arguments: anytype) Failure {
    return failures.fail(error.Input, "the signature: " ++ format, arguments);
}

pub fn check(signature: *const Signature) Failure!void {
    try checkWhole(signature);
    try checkTables(signature);
}

fn checkWhole(signature: *const Signature) Failure!void {
    if (signature.name.len == 0) return bad("the plan has no name", .{});
    var data: usize = 0;
    for (signature.inputs) |*input| {
        if (input.role != .data) continue;
        data += 1;
        if (signature.batch) |batch| {
            if (input.any_batch or input.shape.sizes[0] != batch)
                return bad("data \"{}\" does not hold the plan's {} examples", .{ input.name, batch });
        } else if (!input.any_batch) {
            return bad("data \"{}\": its first size must be \"batch\"", .{input.name});
        }
    }
    if (data == 0) return bad("the plan has no data", .{});
    var losses: usize = 0;
    var replacing: usize = 0;
    for (signature.outputs) |*output| {
        if (output.role == .loss) losses += 1;
        if (output.replaces != null) replacing += 1;
        if (output.metric) |name| try checkMetric(signature, output, name);
    }
    if (signature.kind == .train and losses != 1) return bad("a training plan has exactly one loss", .{});
    if (signature.kind == .train and replacing == 0) return bad("a training plan replaces something", .{});
}

fn checkMetric(signature: *const Signature, output: *const Output, name: []const u8) Failure!void {
    var twins: usize = 0;
    for (signature.outputs) |*other| {
        const same = other.metric != null and std.mem.eql(u8, other.metric.?, name);
        if (same and other.part.? != output.part.?) twins += 1;
        if (same and other.part.? == output.part.? and other != output) twins += 2;
    }
    if (twins != 1) return bad("metric \"{}\" has not one sum and one count", .{name});
}

fn checkTables(signature: *const Signature) Failure!void {
    for (signature.inputs) |*input| {
        const table = input.rows orelse continue;
        const size = signature.tableSize(table) orelse 0;
        var parameters: usize = 0;
        var data: usize = 0;
        for (signature.inputs) |*other| {
            if (other.rows == null or !std.mem.eql(u8, other.rows.?, table)) continue;
            if (other.role == .parameter) parameters += 1;
            if (other.role == .data) data += 1;
        }
        if (parameters == 0) return bad("table \"{}\" has no parameter", .{table});
        if (data == 0) return bad("table \"{}\" has no data", .{table});
        if (input.isTable() and input.shape.sizes[0] != size)
            return bad("the parts of table \"{}\" have {} and {} rows", .{ table, size, input.shape.sizes[0] });
        if (input.range) |range| if (range[0] < 0 or range[1] >= size)
            return bad("data \"{}\" names rows that table \"{}\" has not", .{ input.name, table });
    }
}

/// A name that occurs twice; sorts the names.
pub fn repeated(names: [][]const u8) ?[]const u8 {
    std.sort.heap([]const u8, names, {}, before);
    for (names[@min(1, names.len)..], 0..) |name, i| {
        if (std.mem.eql(u8, name, names[i])) return name;
    }
    return null;
}

fn before(_: void, a: []const u8, b: []const u8) bool {
    return std.mem.order(u8, a, b) == .lt;
}
