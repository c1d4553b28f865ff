//! A look into an ONNX file (protobuf) for one thing: scatters that add. ONNX Runtime loses updates in them where
//! several threads meet at one row, so such a plan runs in one thread.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");

const Failure = failures.Failure;
const fail = failures.fail;

const depth_max = 32; // of graphs within nodes within graphs
const file_bytes_max = 2 << 30; // protobuf's own limit

/// Fails where the graph scatters with reduction=add.
pub fn refuseRacingScatters(path: [:0]const u8) Failure!void {
    const file = try files.map(path, file_bytes_max);
    defer files.unmap(file);
    const found = hasAddingScatter(file) catch return fail(error.Engine, "{}: it is no ONNX file", .{path});
    if (found) return fail(error.Job, "threads must be 1: {} scatters with reduction=add", .{path});
}

const Malformed = error{Malformed};

// Field numbers of onnx.proto.
const model_graph = 7;
const model_functions = 25;
const graph_node = 1;
const function_node = 7;
const node_op_type = 4;
const node_attribute = 5;
const attribute_name = 1;
const attribute_string = 4;
const attribute_graph = 6;
const attribute_graphs = 11;

pub fn hasAddingScatter(model: []const u8) Malformed!bool {
    var fields: Fields = .{ .rest = model };
    while (try fields.next()) |field| {
        const found = switch (field.number) {
            model_graph => try nodesScatter(field.bytes, graph_node, 0),
            model_functions => try nodesScatter(field.bytes, function_node, 0),
            else => false,
        };
        if (found) return true;
    }
    return false;
}

fn nodesScatter(message: []const u8, node_number: u64, depth: usize) Malformed!bool {
    if (depth == depth_max) return error.Malformed;
    var fields: Fields = .{ .rest = message };
    while (try fields.next()) |field| {
        if (field.number == node_number and try nodeScatters(field.bytes, depth)) return true;
    }
    return false;
}

fn nodeScatters(node: []const u8, depth: usize) Malformed!bool {
    var scatter = false;
    var adds = false;
    var fields: Fields = .{ .rest = node };
    while (try fields.next()) |field| switch (field.number) {
        node_op_type => scatter = std.mem.startsWith(u8, field.bytes, "Scatter"),
        node_attribute => {
            const attribute = try readAttribute(field.bytes, depth);
            if (attribute.scatters_within) return true;
            adds = adds or attribute.adds;
        },
        else => {},
    };
    return scatter and adds;
}

const Attribute = struct { adds: bool, scatters_within: bool };

fn readAttribute(message: []const u8, depth: usize) Malformed!Attribute {
    var name: []const u8 = "";
    var value: []const u8 = "";
    var within = false;
    var fields: Fields = .{ .rest = message };
    while (try fields.next()) |field| switch (field.number) {
        attribute_name => name = field.bytes,
        attribute_string => value = field.bytes,
        attribute_graph, attribute_graphs => within = within or try nodesScatter(field.bytes, graph_node, depth + 1),
        else => {},
    };
    return .{
        .adds = std.mem.eql(u8, name, "reduction") and std.mem.eql(u8, value, "add"),
        .scatters_within = within,
    };
}

/// The fields of a protobuf message, those that are not length-delimited with no bytes.
const Fields = struct {
    rest: []const u8,

    const Field = struct { number: u64, bytes: []const u8 };

    fn next(fields: *Fields) Malformed!?Field {
        if (fields.rest.len == 0) return null;
        const key = try fields.varint();
        const number = key >> 3;
        switch (key & 7) {
            0 => _ = try fields.varint(),
            1 => _ = try fields.take(8),
            2 => return .{ .number = number, .bytes = try fields.take(try fields.varint()) },
            5 => _ = try fields.take(4),
            else => return error.Malformed,
        }
        return .{ .number = number, .bytes = &.{} };
    }

    fn take(fields: *Fields, length: u64) Malformed![]const u8 {
        if (length > fields.rest.len) return error.Malformed;
        const count: usize = @intCast(length);
        defer fields.rest = fields.rest[count..];
        return fields.rest[0..count];
    }

    fn varint(fields: *Fields) Malformed!u64 {
        var value: u64 = 0;
        for (0..10) |i| {
            const byte = (try fields.take(1))[0];
            value |= if (i < 9) @as(u64, byte & 0x7f) << @intCast(7 * i) else @as(u64, byte & 1) << 63;
            if (byte & 0x80 == 0) return value;
        }
        return error.Malformed;
    }
};
