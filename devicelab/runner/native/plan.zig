//! A plan that is loaded: the engine's session, and a signature that agrees with it.

const std = @import("std");
const failures = @import("failure.zig");
const graph = @import("graph.zig");
const ort = @import("ort.zig");
const signatures = @import("signature.zig");

const Failure = failures.Failure;
const Input = signatures.Input;
const Kind = signatures.Kind;
const Output = signatures.Output;
const Signature = signatures.Signature;
const fail = failures.fail;

pub const Plan = struct {
    path: [:0]const u8,
    session: ort.Session,
    signature: Signature,
};

/// Loads a plan and checks that graph and signature name the same inputs and outputs, of the same types and shapes.
pub fn load(arena: std.mem.Allocator, path: [:0]const u8, kind: Kind, threads: u16) Failure!Plan {
    if (threads > 1) try graph.refuseRacingScatters(path);
    const session: ort.Session = try .load(path, threads);
    const text = try session.metadata(arena, signatures.metadata_key) orelse
        return fail(error.Input, "{}: it is no plan: it has no signature", .{path});
    const signature = try signatures.parse(arena, text);
    if (signature.kind != kind)
        return fail(
            error.Input,
            "{}: it is a plan to {}, not to {}",
            .{ path, @tagName(signature.kind), @tagName(kind) },
        );
    try agree(arena, session, path, .input, signature.inputs);
    try agree(arena, session, path, .output, signature.outputs);
    return .{ .path = path, .session = session, .signature = signature };
}

fn agree(
    arena: std.mem.Allocator,
    session: ort.Session,
    path: [:0]const u8,
    comptime side: ort.Side,
    described: if (side == .input) []const Input else []const Output,
) Failure!void {
    const count = try session.count(side);
    if (count != described.len) return fail(error.Input, "{}: the graph has {} {}s, its signature {}", .{
        path, count, @tagName(side), described.len,
    });
    const matched = try arena.alloc(bool, count);
    @memset(matched, false);
    for (0..count) |i| {
        const actual = try session.describe(arena, side, i);
        // Mostly they come in the same order.
        const position = if (std.mem.eql(u8, described[i].name, actual.name)) i else for (described, 0..) |*other, k| {
            if (std.mem.eql(u8, other.name, actual.name)) break k;
        } else return fail(
            error.Input,
            "{}: the signature lacks the {} \"{}\"",
            .{ path, @tagName(side), actual.name },
        );
        if (matched[position]) return fail(
            error.Input,
            "{}: two {}s are called \"{}\"",
            .{ path, @tagName(side), actual.name },
        );
        matched[position] = true;
        const promised = &described[position];
        const any_first = if (side == .input) promised.anyFirst() else promised.any_first;
        var same = actual.dtype == promised.dtype and actual.rank == promised.shape.rank;
        if (same) for (promised.shape.slice(), actual.sizes[0..actual.rank], 0..) |size, found, axis| {
            const any = found == null;
            same = same and if (any_first and axis == 0) any else (any or found.? == size);
        };
        if (!same) return fail(error.Input, "{}: graph and signature differ in the type or shape of the {} \"{}\"", .{
            path, @tagName(side), actual.name,
        });
    }
}
