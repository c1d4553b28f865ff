//! Which rows of a plan's tables a job has: all of them, or those that its parameters' file lists.
//!
//! A table is what the signature's `rows` name: parameters, their state and anchors with one row for each of the
//! same things, and data that hold the numbers of rows. Who lists rows pays for these, however long the table is.

const std = @import("std");
const failures = @import("failure.zig");
const safetensors = @import("safetensors.zig");
const signatures = @import("signature.zig");

const Failure = failures.Failure;
const Signature = signatures.Signature;
const Tensors = safetensors.Tensors;
const assert = std.debug.assert;
const fail = failures.fail;

/// What the tensors are called that list rows, before the name of their table.
pub const prefix = signatures.rows_prefix;

/// Some of a table's rows.
pub const Selection = struct {
    table: []const u8,
    rows: []align(1) const i64, // ascending, each once, all of the table

    /// Where a row is among these; null if it is none of them.
    pub fn place(selection: *const Selection, row: i64) ?usize {
        var low: usize = 0;
        var high = selection.rows.len;
        while (low < high) {
            const middle = low + (high - low) / 2;
            if (selection.rows[middle] < row) low = middle + 1 else high = middle;
        }
        return if (low < selection.rows.len and selection.rows[low] == row) low else null;
    }

    /// Puts a place for each row's number. Returns the first that is none of these rows.
    pub fn renumber(selection: *const Selection, comptime T: type, numbers: []align(1) const T, places: []T) ?i64 {
        assert(numbers.len == places.len);
        for (numbers, places) |number, *to| {
            const found = selection.place(number) orelse return number;
            assert(found <= number); // so it fits into the type
            to.* = @intCast(found);
        }
        return null;
    }
};

pub fn find(selections: []const Selection, table: ?[]const u8) ?*const Selection {
    const name = table orelse return null;
    for (selections) |*selection| {
        if (std.mem.eql(u8, selection.table, name)) return selection;
    }
    return null;
}

/// Reads what rows a parameters' file has, and makes the plans' shapes those of this job.
///
/// Args: the training plan's signature, the evaluation plan's, or both.
pub fn select(
    arena: std.mem.Allocator,
    training: ?*Signature,
    evaluation: ?*Signature,
    parameters: *const Tensors,
) Failure![]const Selection {
    var selections: std.ArrayList(Selection) = .empty;
    for (parameters.sorted) |*tensor| {
        if (!std.mem.startsWith(u8, tensor.name, prefix)) continue;
        const table = tensor.name[prefix.len..];
        const size = try wholeSize(training, evaluation, table) orelse return fail(
            error.Input,
            "{}: \"{}\": the plan has no table \"{}\"",
            .{ parameters.path, tensor.name, table },
        );
        try selections.append(arena, .{ .table = table, .rows = try checkedRows(parameters, tensor, size) });
    }
    if (selections.items.len == 0) return &.{};
    assert(selections.items.len <= signatures.inputs_max); // two plans, and of a table at least two inputs
    if (training) |plan| if (evaluation) |twin| try checkTwins(plan, twin, selections.items);
    for ([_]?*Signature{ training, evaluation }) |plan| {
        if (plan) |signature| try narrow(signature, selections.items, parameters);
    }
    return selections.items;
}

/// How many rows a table has; null if no plan has it.
fn wholeSize(training: ?*const Signature, evaluation: ?*const Signature, table: []const u8) Failure!?u64 {
    const one = if (training) |signature| signature.tableSize(table) else null;
    const other = if (evaluation) |signature| signature.tableSize(table) else null;
    if (one != null and other != null and one.? != other.?) return fail(
        error.Input,
        "table \"{}\" has {} rows in the plan, {} in the evaluation plan",
        .{ table, one.?, other.? },
    );
    return one orelse other;
}

fn checkedRows(
    parameters: *const Tensors,
    tensor: *const safetensors.Tensor,
    size: u64,
) Failure![]align(1) const i64 {
    const wrong = .{ parameters.path, tensor.name };
    if (tensor.dtype != .i64 or tensor.shape.rank != 1)
        return fail(error.Input, "{}: \"{}\" is no list of I64", wrong);
    const rows: []align(1) const i64 = @ptrCast(parameters.bytes(tensor));
    if (rows.len == 0) return fail(error.Input, "{}: \"{}\" lists no rows", wrong);
    for (rows, 0..) |row, i| {
        if (row < 0 or row >= size)
            return fail(error.Input, "{}: \"{}\" lists row {}, the table has {}", wrong ++ .{ row, size });
        if (i > 0 and row <= rows[i - 1])
            return fail(error.Input, "{}: \"{}\" lists row {} after row {}", wrong ++ .{ row, rows[i - 1] });
    }
    assert(rows.len <= size);
    return rows;
}

/// Fails where one plan has some rows of what the other one needs whole.
fn checkTwins(training: *const Signature, evaluation: *const Signature, selections: []const Selection) Failure!void {
    for (evaluation.inputs) |*input| {
        if (!input.role.isCarried()) continue;
        const index = training.findInput(input.name) orelse continue;
        const one = find(selections, training.inputs[index].rows);
        const other = find(selections, input.rows);
        if (one == other) continue;
        if (one) |selection| return fail(
            error.Input,
            "the job has some rows of table \"{}\", but in the evaluation plan \"{}\" is not of that table",
            .{ selection.table, input.name },
        );
        return fail(
            error.Input,
            "the job has some rows of table \"{}\", but in the training plan \"{}\" is not of that table",
            .{ other.?.table, input.name },
        );
    }
}

/// Gives a signature's tables as many rows as the job has of them.
fn narrow(signature: *Signature, selections: []const Selection, parameters: *const Tensors) Failure!void {
    for (signature.inputs) |*input| {
        if (!input.isTable()) continue;
        const selection = find(selections, input.rows) orelse continue;
        assert(selection.rows.len <= input.shape.sizes[0]);
        input.shape.sizes[0] = selection.rows.len;
        const tensor = parameters.find(input.name) orelse continue;
        if (tensor.shape.rank == 0 or tensor.shape.sizes[0] != selection.rows.len) return fail(
            error.Input,
            "{}: \"{}\" has not the {} rows that \"" ++ prefix ++ "{}\" lists",
            .{ parameters.path, input.name, selection.rows.len, selection.table },
        );
    }
    for (signature.outputs) |*output| {
        if (output.replaces) |index| output.shape = signature.inputs[index].shape;
    }
}
