//! Reads a signature's JSON, and finds the inputs that its parts name.

const std = @import("std");
const dtypes = @import("dtype.zig");
const failures = @import("failure.zig");
const json = @import("json.zig");
const repeated = @import("signature_rules.zig").repeated;
const signatures = @import("signature.zig");

const Dtype = dtypes.Dtype;
const Failure = failures.Failure;
const Input = signatures.Input;
const Kind = signatures.Kind;
const Output = signatures.Output;
const Part = signatures.Part;
const Role = signatures.Role;
const Shape = dtypes.Shape;
const Signature = signatures.Signature;
const fail = failures.fail;
const name_bytes_max = signatures.name_bytes_max;

const version = 1;

/// Names that refer to inputs are looked up once all are known.
pub const Parser = struct {
    arena: std.mem.Allocator,
    reader: json.Reader,
    result: Signature = .{},
    anchors: std.ArrayList(Reference) = .empty,
    replacements: std.ArrayList(Reference) = .empty,

    const Reference = struct { from: u32, name: []const u8 };
    const Field = enum { version, name, kind, batch, inputs, outputs };

    pub fn init(arena: std.mem.Allocator, text: []const u8) Parser {
        return .{ .arena = arena, .reader = .init(arena, text, error.Input, "the signature") };
    }

    pub fn parse(parser: *Parser) Failure!Signature {
        const reader = &parser.reader;
        const result = &parser.result;
        try reader.beginObject("it");
        var fields: json.Fields(Field) = .{ .nullable = .initOne(.batch) };
        while (try reader.field(Field, &fields)) |field| switch (field) {
            .version => {
                const number = try reader.integer(u32, "version");
                if (number != version) return reader.wrong(
                    "version {}, this runner reads version {}",
                    .{ number, version },
                );
            },
            .name => result.name = try reader.string("name", name_bytes_max),
            .kind => result.kind = std.meta.stringToEnum(Kind, try reader.string("kind", 16)) orelse
                return reader.wrong("kind is neither train nor evaluate", .{}),
            .batch => {
                result.batch = try reader.integer(u31, "batch");
                if (result.batch == 0) return reader.wrong("batch is 0", .{});
            },
            .inputs => result.inputs = try parser.list(Input, signatures.inputs_max, parseInput),
            .outputs => result.outputs = try parser.list(Output, signatures.outputs_max, parseOutput),
        };
        try reader.end();
        for ([_]Field{ .version, .name, .kind, .inputs, .outputs }) |field| {
            if (!fields.given.contains(field)) return parser.bad("it lacks \"{}\"", .{@tagName(field)});
        }
        try parser.checkNames();
        try parser.resolve();
        return result.*;
    }

    fn bad(parser: *const Parser, comptime format: []const u8, arguments: anytype) Failure {
        _ = parser;
        return fail(error.Input, "the signature: " ++ format, arguments);
    }

    fn list(
        parser: *Parser,
        comptime Item: type,
        count_max: usize,
        parseItem: fn (*Parser, index: u32) Failure!Item,
    ) Failure![]Item {
        const reader = &parser.reader;
        var items: std.ArrayList(Item) = .empty;
        try reader.beginArray("inputs or outputs");
        while (try reader.item()) {
            if (items.items.len == count_max) return reader.wrong("more than {} inputs or outputs", .{count_max});
            try items.append(parser.arena, try parseItem(parser, @intCast(items.items.len)));
        }
        return items.items;
    }

    fn parseInput(parser: *Parser, index: u32) Failure!Input {
        const InputField = enum { name, role, dtype, shape, default, of, range, rows };
        const reader = &parser.reader;
        var input: Input = .{ .name = "", .role = .data, .dtype = .f32, .shape = .{} };
        try reader.beginObject("an input");
        var fields: json.Fields(InputField) = .{};
        while (try reader.field(InputField, &fields)) |field| switch (field) {
            .name => input.name = try parser.tensorName(),
            .role => input.role = try parser.role(),
            .dtype => input.dtype = try parser.dtype(),
            .shape => input.shape = try parser.shape(&input.any_batch),
            .default => input.default = try reader.number("default"),
            .of => {
                const of = try reader.string("of", name_bytes_max);
                try parser.anchors.append(parser.arena, .{ .from = index, .name = of });
            },
            .range => {
                try reader.beginArray("range");
                const low = try reader.integer(i64, "range");
                const high = try reader.integer(i64, "range");
                if (try reader.item()) return reader.wrong("a range has two numbers", .{});
                if (low > high) return reader.wrong("the range is empty", .{});
                input.range = .{ low, high };
            },
            .rows => input.rows = try parser.tableName(),
        };
        for ([_]InputField{ .name, .role, .dtype, .shape }) |field| {
            if (!fields.given.contains(field)) return reader.wrong("an input lacks \"{}\"", .{@tagName(field)});
        }
        if (fields.given.contains(.of) != (input.role == .anchor)) return reader.wrong(
            "exactly anchors say \"of\"",
            .{},
        );
        try parser.checkInput(&input);
        return input;
    }

    fn checkInput(parser: *Parser, input: *const Input) Failure!void {
        const reader = &parser.reader;
        const name = input.name;
        switch (input.role) {
            .loss, .metric => return reader.wrong("\"{}\" cannot be an input", .{name}),
            .data => if (input.shape.rank == 0) return reader.wrong("\"{}\" has no dimension for examples", .{name}),
            .hyper => if (input.shape.rank != 0) return reader.wrong("\"{}\" is not a single number", .{name}),
            else => {},
        }
        if (input.any_batch and input.role != .data) return reader.wrong("\"{}\": only data has examples", .{name});
        if (input.default != null and input.role != .hyper) return reader.wrong(
            "\"{}\": only hypers have defaults",
            .{name},
        );
        const whole = input.role == .data and (input.dtype == .i64 or input.dtype == .i32);
        if (input.range != null and !whole) return reader.wrong("\"{}\": only integer data has a range", .{name});
        if (input.role == .parameter and !input.dtype.isFloat())
            return reader.wrong("\"{}\": parameters are floating-point numbers", .{name});
        if (input.role.isCarried() and std.mem.startsWith(u8, name, signatures.rows_prefix))
            return reader.wrong("\"{}\": such names are for lists of rows", .{name});
        if (input.rows != null) switch (input.role) {
            .data => if (!whole) return reader.wrong("\"{}\": numbers of rows are integers", .{name}),
            .parameter, .state, .anchor => if (input.shape.rank == 0 or input.shape.sizes[0] == 0)
                return reader.wrong("\"{}\" has no rows", .{name}),
            else => return reader.wrong("\"{}\" cannot have rows of a table", .{name}),
        };
    }

    fn parseOutput(parser: *Parser, index: u32) Failure!Output {
        const OutputField = enum { name, role, dtype, shape, replaces, in_place, metric, part };
        const reader = &parser.reader;
        var output: Output = .{ .name = "", .role = .loss, .dtype = .f32, .shape = .{} };
        try reader.beginObject("an output");
        var any_batch = false;
        var fields: json.Fields(OutputField) = .{};
        while (try reader.field(OutputField, &fields)) |field| switch (field) {
            .name => output.name = try parser.tensorName(),
            .role => output.role = try parser.role(),
            .dtype => output.dtype = try parser.dtype(),
            .shape => output.shape = try parser.shape(&any_batch),
            .replaces => {
                const replaces = try reader.string("replaces", name_bytes_max);
                try parser.replacements.append(parser.arena, .{ .from = index, .name = replaces });
            },
            .in_place => output.in_place = try reader.boolean("in_place"),
            .metric => output.metric = try reader.string("metric", name_bytes_max),
            .part => output.part = std.meta.stringToEnum(Part, try reader.string("part", 16)) orelse
                return reader.wrong("part is neither sum nor count", .{}),
        };
        for ([_]OutputField{ .name, .role, .dtype, .shape }) |field| {
            if (!fields.given.contains(field)) return reader.wrong("an output lacks \"{}\"", .{@tagName(field)});
        }
        const carried = output.role.isCarried();
        const name = output.name;
        if (any_batch) return reader.wrong("\"{}\": only data has examples", .{name});
        if (!carried and output.role != .loss and output.role != .metric) return reader.wrong(
            "\"{}\" cannot be an output",
            .{name},
        );
        if (carried != fields.given.contains(.replaces)) return reader.wrong(
            "\"{}\": exactly carried values say \"replaces\"",
            .{name},
        );
        if (output.in_place and !carried) return reader.wrong("\"{}\" cannot be in place", .{name});
        if (!carried and output.shape.rank != 0) return reader.wrong("\"{}\" is not a single number", .{name});
        if (output.role == .loss and !output.dtype.isFloat()) return reader.wrong(
            "the loss is no floating-point number",
            .{},
        );
        const metric = output.role == .metric;
        if (metric != (output.metric != null) or metric != (output.part != null))
            return reader.wrong("\"{}\": exactly metrics say \"metric\" and \"part\"", .{name});
        return output;
    }

    fn tensorName(parser: *Parser) Failure![:0]const u8 {
        const name = try parser.reader.string("name", name_bytes_max);
        if (name.len == 0) return parser.reader.wrong("a name is empty", .{});
        if (std.mem.indexOfScalar(u8, name, 0) != null) return parser.reader.wrong("a name has a zero byte", .{});
        return parser.arena.dupeSentinel(u8, name, 0);
    }

    fn tableName(parser: *Parser) Failure![]const u8 {
        const name = try parser.reader.string("rows", signatures.table_bytes_max);
        var good = name.len > 0 and std.ascii.isAlphanumeric(name[0]);
        for (name) |byte| good = good and switch (byte) {
            'A'...'Z', 'a'...'z', '0'...'9', '.', '_', '-' => true,
            else => false,
        };
        return if (good) name else parser.reader.wrong("rows is no name of a table", .{});
    }

    fn role(parser: *Parser) Failure!Role {
        const name = try parser.reader.string("role", 32);
        return std.meta.stringToEnum(Role, name) orelse parser.reader.wrong("unknown role \"{}\"", .{name});
    }

    fn dtype(parser: *Parser) Failure!Dtype {
        const name = try parser.reader.string("dtype", 32);
        return Dtype.fromSignature(name) orelse parser.reader.wrong("unknown element type \"{}\"", .{name});
    }

    fn shape(parser: *Parser, any_batch: *bool) Failure!Shape {
        const reader = &parser.reader;
        var result: Shape = .{};
        try reader.beginArray("shape");
        while (try reader.item()) {
            if (result.rank == dtypes.rank_max) return reader.wrong("more than {} dimensions", .{dtypes.rank_max});
            if (try reader.isString()) {
                const name = try reader.string("size", 32);
                if (result.rank > 0 or !std.mem.eql(u8, name, "batch"))
                    return reader.wrong("only the first size may be \"batch\"", .{});
                any_batch.* = true;
            } else {
                result.sizes[result.rank] = try reader.integer(u48, "a size");
            }
            result.rank += 1;
        }
        if (result.bytes(.f64) == null) return reader.wrong("a tensor is too large", .{});
        return result;
    }

    fn checkNames(parser: *Parser) Failure!void {
        const names = try parser.arena.alloc([]const u8, parser.result.inputs.len);
        for (parser.result.inputs, names) |input, *name| name.* = input.name;
        if (repeated(names)) |name| return parser.bad("input \"{}\" occurs twice", .{name});
        const others = try parser.arena.alloc([]const u8, parser.result.outputs.len);
        for (parser.result.outputs, others) |output, *name| name.* = output.name;
        if (repeated(others)) |name| return parser.bad("output \"{}\" occurs twice", .{name});
    }

    fn resolve(parser: *Parser) Failure!void {
        const inputs = parser.result.inputs;
        for (parser.anchors.items) |reference| {
            const anchor = &inputs[reference.from];
            const index = parser.result.findInput(reference.name) orelse
                return parser.bad("anchor \"{}\" belongs to no input", .{anchor.name});
            const target = &inputs[index];
            if (target.role != .parameter and target.role != .private)
                return parser.bad("anchor \"{}\" belongs to what is no parameter", .{anchor.name});
            if (anchor.dtype != target.dtype or !anchor.shape.equals(&target.shape))
                return parser.bad("anchor \"{}\" and its parameter differ in type or shape", .{anchor.name});
            if (!same(anchor.rows, target.rows))
                return parser.bad("anchor \"{}\" and its parameter are not of the same table", .{anchor.name});
            anchor.of = index;
        }
        var replaced: std.DynamicBitSetUnmanaged = try .initEmpty(parser.arena, inputs.len);
        for (parser.replacements.items) |reference| {
            const output = &parser.result.outputs[reference.from];
            const index = parser.result.findInput(reference.name) orelse
                return parser.bad("output \"{}\" replaces no input", .{output.name});
            const target = &inputs[index];
            if (output.role != target.role or output.dtype != target.dtype or !output.shape.equals(&target.shape))
                return parser.bad("output \"{}\" and what it replaces differ in role, type or shape", .{output.name});
            if (replaced.isSet(index)) return parser.bad("input \"{}\" is replaced twice", .{target.name});
            replaced.set(index);
            output.replaces = index;
            output.any_first = target.anyFirst();
        }
    }
};

fn same(one: ?[]const u8, other: ?[]const u8) bool {
    if (one == null or other == null) return one == null and other == null;
    return std.mem.eql(u8, one.?, other.?);
}
