//! job.json: what the host asks for. Checked as a whole before anything is done.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const json = @import("json.zig");
const repeated = @import("signature_rules.zig").repeated;

const Failure = failures.Failure;
const fail = failures.fail;

pub const bytes_max = 16 << 20;
pub const clients_max = 100_000;
const hypers_max = 4096;
const id_bytes_max = 64;
const inputs_max = 4;
const threads_max = 64;
const name = "job.json";

pub const Verb = enum { train, evaluate, run };
pub const State = enum { reset, keep };
pub const Combine = enum { each, sum };
pub const Length = union(enum) { epochs: u32, steps: u64 };

pub const Hyper = struct { label: []const u8, value: f64 };

pub const Client = struct {
    id: []const u8,
    shard: [:0]const u8,
    seed: u64,
    weight: ?f64 = null,
    kept: ?[:0]const u8 = null,
};

pub const Job = struct {
    id: []const u8 = "",
    verb: Verb = .train,
    plan: [:0]const u8 = "",
    threads: u16 = 1,
    parameters: ?[:0]const u8 = null,
    clients: []const Client = &.{},
    batch_size: ?u32 = null,
    hypers: []const Hyper = &.{},
    length: Length = .{ .epochs = 1 },
    shuffle: bool = true,
    state: State = .reset,
    combine: Combine = .each,
    clip_norm: ?f64 = null,
    evaluation: ?[:0]const u8 = null,
    inputs: []const [:0]const u8 = &.{},

    pub fn hyper(job: *const Job, label: []const u8) ?f64 {
        for (job.hypers) |entry| {
            if (std.mem.eql(u8, entry.label, label)) return entry.value;
        }
        return null;
    }
};

const Field = enum {
    protocol,
    job,
    verb,
    plan,
    threads,
    parameters,
    clients,
    batch_size,
    hyper,
    epochs,
    steps,
    shuffle,
    state,
    combine,
    clip_norm,
    evaluation,
    inputs,
};
const Fields = std.EnumSet(Field);

const needed_by_all: Fields = .initMany(&.{ .protocol, .job, .verb, .plan });
const allowed_for_all = needed_by_all.unionWith(.initMany(&.{.threads}));

fn needed(verb: Verb) Fields {
    return needed_by_all.unionWith(switch (verb) {
        .train => .initMany(&.{ .parameters, .clients, .combine }),
        .evaluate => .initMany(&.{ .parameters, .clients }),
        .run => .initMany(&.{.inputs}),
    });
}

fn allowed(verb: Verb) Fields {
    const clients: Fields = .initMany(&.{ .parameters, .clients, .batch_size, .hyper });
    return allowed_for_all.unionWith(switch (verb) {
        .train => clients.unionWith(.initMany(&.{
            .epochs,
            .steps,
            .shuffle,
            .state,
            .combine,
            .clip_norm,
            .evaluation,
        })),
        .evaluate => clients,
        .run => .initMany(&.{.inputs}),
    });
}

/// Parses and checks. The result points into the text and into the arena.
pub fn parse(arena: std.mem.Allocator, text: []const u8) Failure!Job {
    if (text.len > bytes_max) return fail(error.Job, "{} is longer than {} bytes", .{ name, bytes_max });
    var reader: json.Reader = .init(arena, text, error.Job, name);
    var job: Job = .{};
    var fields: json.Fields(Field) = .{ .nullable = .full };
    try reader.beginObject("it");
    while (try reader.field(Field, &fields)) |field| try parseField(&reader, arena, &job, field);
    try reader.end();
    try checkFields(&job, fields.given);
    try checkClients(arena, &job);
    return job;
}

fn parseField(reader: *json.Reader, arena: std.mem.Allocator, job: *Job, field: Field) Failure!void {
    switch (field) {
        .protocol => {
            const number = try reader.integer(u32, "protocol");
            if (number != 1) return reader.wrong("protocol {}, this runner speaks 1", .{number});
        },
        .job => job.id = try identifier(reader, "job"),
        .verb => job.verb = try choice(reader, Verb, "verb"),
        .plan => job.plan = try path(reader, arena, "plan"),
        .threads => {
            job.threads = try reader.integer(u16, "threads");
            if (job.threads == 0 or job.threads > threads_max)
                return reader.wrong("threads is not within 1 and {}", .{threads_max});
        },
        .parameters => job.parameters = try path(reader, arena, "parameters"),
        .clients => job.clients = try parseClients(reader, arena),
        .batch_size => {
            job.batch_size = try reader.integer(u31, "batch_size");
            if (job.batch_size == 0) return reader.wrong("batch_size is 0", .{});
        },
        .hyper => job.hypers = try parseHypers(reader, arena),
        .epochs => {
            const epochs = try reader.integer(u31, "epochs");
            if (epochs == 0) return reader.wrong("epochs is 0", .{});
            job.length = .{ .epochs = epochs };
        },
        .steps => {
            const steps = try reader.integer(u48, "steps");
            if (steps == 0) return reader.wrong("steps is 0", .{});
            job.length = .{ .steps = steps };
        },
        .shuffle => job.shuffle = try reader.boolean("shuffle"),
        .state => job.state = try choice(reader, State, "state"),
        .combine => job.combine = try choice(reader, Combine, "combine"),
        .clip_norm => {
            job.clip_norm = try reader.number("clip_norm");
            if (job.clip_norm.? <= 0) return reader.wrong("clip_norm is not positive", .{});
        },
        .evaluation => job.evaluation = try path(reader, arena, "evaluation"),
        .inputs => job.inputs = try parseInputs(reader, arena),
    }
}

/// One path, or a list of them.
fn parseInputs(reader: *json.Reader, arena: std.mem.Allocator) Failure![]const [:0]const u8 {
    var paths: std.ArrayList([:0]const u8) = .empty;
    if (try reader.isString()) {
        try paths.append(arena, try path(reader, arena, "inputs"));
        return paths.items;
    }
    try reader.beginArray("inputs");
    while (try reader.item()) {
        if (paths.items.len == inputs_max) return reader.wrong("more than {} inputs", .{inputs_max});
        try paths.append(arena, try path(reader, arena, "inputs"));
    }
    if (paths.items.len == 0) return reader.wrong("inputs is empty", .{});
    return paths.items;
}

fn checkFields(job: *const Job, given: Fields) Failure!void {
    if (!given.contains(.verb)) return fail(error.Job, "{} lacks \"verb\"", .{name});
    const verb = @tagName(job.verb);
    var missing = needed(job.verb).differenceWith(given).iterator();
    if (missing.next()) |field|
        return fail(error.Job, "{} lacks \"{}\", which {} needs", .{ name, @tagName(field), verb });
    var idle = given.differenceWith(allowed(job.verb)).iterator();
    if (idle.next()) |field|
        return fail(error.Job, "{} has \"{}\", which is nothing for {}", .{ name, @tagName(field), verb });
    if (job.verb == .train and given.contains(.epochs) == given.contains(.steps))
        return fail(error.Job, "{} must have exactly one of \"epochs\" and \"steps\"", .{name});
}

fn checkClients(arena: std.mem.Allocator, job: *const Job) Failure!void {
    if (job.verb == .run) return;
    if (job.clients.len == 0) return fail(error.Job, "{} has no clients", .{name});
    const names = try arena.alloc([]const u8, job.clients.len);
    for (job.clients, names) |client, *to| to.* = client.id;
    if (repeated(names)) |id| return fail(error.Job, "{}: client \"{}\" occurs twice", .{ name, id });
    var count: usize = 0;
    for (job.clients) |client| {
        names[count] = client.kept orelse continue;
        count += 1;
    }
    if (repeated(names[0..count])) |kept| return fail(error.Job, "{}: two clients keep {}", .{ name, kept });
}

const ClientField = enum { client, shard, seed, weight, kept };

fn parseClients(reader: *json.Reader, arena: std.mem.Allocator) Failure![]const Client {
    var clients: std.ArrayList(Client) = .empty;
    try reader.beginArray("clients");
    while (try reader.item()) {
        if (clients.items.len == clients_max) return reader.wrong("more than {} clients", .{clients_max});
        try clients.append(arena, try parseClient(reader, arena));
    }
    return clients.items;
}

fn parseClient(reader: *json.Reader, arena: std.mem.Allocator) Failure!Client {
    var client: Client = .{ .id = "", .shard = "", .seed = 0 };
    try reader.beginObject("a client");
    var fields: json.Fields(ClientField) = .{ .nullable = .full };
    while (try reader.field(ClientField, &fields)) |field| switch (field) {
        .client => client.id = try identifier(reader, "client"),
        .shard => client.shard = try path(reader, arena, "shard"),
        .seed => client.seed = try reader.integer(u63, "seed"),
        .weight => {
            client.weight = try reader.number("weight");
            if (client.weight.? <= 0) return reader.wrong("weight is not positive", .{});
        },
        .kept => client.kept = try path(reader, arena, "kept"),
    };
    for ([_]ClientField{ .client, .shard, .seed }) |field| {
        if (!fields.given.contains(field)) return reader.wrong("a client lacks \"{}\"", .{@tagName(field)});
    }
    return client;
}

fn parseHypers(reader: *json.Reader, arena: std.mem.Allocator) Failure![]const Hyper {
    var hypers: std.ArrayList(Hyper) = .empty;
    try reader.beginObject("hyper");
    while (try reader.key(1024)) |label| {
        if (hypers.items.len == hypers_max) return reader.wrong("more than {} hypers", .{hypers_max});
        for (hypers.items) |other| {
            if (std.mem.eql(u8, other.label, label)) return reader.wrong("hyper \"{}\" occurs twice", .{label});
        }
        if (std.mem.eql(u8, label, "seed")) return reader.wrong("the seed is set for each client", .{});
        try hypers.append(arena, .{ .label = label, .value = try reader.number("a hyper") });
    }
    return hypers.items;
}

fn choice(reader: *json.Reader, comptime Choice: type, what: []const u8) Failure!Choice {
    const text = try reader.string(what, 32);
    return std.meta.stringToEnum(Choice, text) orelse reader.wrong("{} cannot be \"{}\"", .{ what, text });
}

fn identifier(reader: *json.Reader, what: []const u8) Failure![]const u8 {
    const text = try reader.string(what, id_bytes_max);
    var good = text.len > 0 and text[0] != '.';
    for (text) |byte| good = good and switch (byte) {
        'A'...'Z', 'a'...'z', '0'...'9', '.', '_', '-' => true,
        else => false,
    };
    return if (good) text else reader.wrong("{} is no id: letters, digits, '.', '_' and '-', no '.' first", .{what});
}

fn path(reader: *json.Reader, arena: std.mem.Allocator, what: []const u8) Failure![:0]const u8 {
    const text = try reader.string(what, files.path_bytes_max);
    if (text.len == 0) return reader.wrong("{} is empty", .{what});
    if (std.mem.indexOfScalar(u8, text, 0) != null) return reader.wrong("{} has a zero byte", .{what});
    return arena.dupeSentinel(u8, text, 0);
}
