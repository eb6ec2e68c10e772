"""Workflow files that are wrong, with all that is to be said of each.

`«` marks where a problem stands; it is taken out before the text is read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Broken:
    """One such file."""

    text: str
    problems: tuple[str, ...]
    """`path: message | remedy`, in the order of the file."""


BROKEN = {
    "an empty file": Broken(
        """\
«""",
        (": the file is empty | A workflow begins with 'schema_version: \"1.0\"'.",),
    ),
    "only a comment": Broken(
        """\
«# nothing yet
""",
        (": the file is empty | A workflow begins with 'schema_version: \"1.0\"'.",),
    ),
    "a list at the top": Broken(
        """\
«- a
- b
""",
        (": a workflow is a mapping: 'schema_version', 'flow', 'state', 'nodes', 'edges' | ",),
    ),
    "a text at the top": Broken(
        """\
«hello
""",
        (": a workflow is a mapping: 'schema_version', 'flow', 'state', 'nodes', 'edges' | ",),
    ),
    "a quotation mark that is not closed": Broken(
        """\
schema_version: "1.0«""",
        (": not valid YAML: found unexpected end of stream | A quotation mark or a bracket is not closed.",),
    ),
    "a tab as indentation": Broken(
        """\
flow:
«\tname: t
""",
        (
            ": not valid YAML: found character that cannot start any token | Indent with spaces, and put a text that begins with '@', '%' or '`' in quotes.",
        ),
    ),
    "a type with brackets inside of braces": Broken(
        """\
state: {fields: {a: {type: list«[str]}}}
""",
        (
            ": not valid YAML: did not find expected ',' or '}' | Inside of { } and [ ] a text that holds brackets or commas needs quotes: 'list[str]'.",
        ),
    ),
    "a colon in a plain text": Broken(
        """\
flow:
  name: triage«: the second
""",
        (
            ": not valid YAML: mapping values are not allowed in this context | Put a text that holds ': ' in quotes, and check the indentation.",
        ),
    ),
    "two documents": Broken(
        """\
schema_version: "1.0"
«---
flow: {name: t}
""",
        (": a file holds one workflow; here begins a second document | Remove '---'.",),
    ),
    "a control character": Broken(
        """\
flow: {name: «\x07}
""",
        (": not valid YAML: control characters are not allowed | Remove the control character, or write it as \\u….",),
    ),
    "tags, anchors and aliases": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft], llm: «&fast {model: gpt-x}}
- {id: rate, prompt: «!!str x, outputs: [score], llm: «*fast}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        (
            "nodes[0].llm: anchors are not read: '&fast' | Remove it.",
            "nodes[1].prompt: tags are not read: 'tag:yaml.org,2002:str' | Remove it; put text in quotes.",
            "nodes[1].llm: aliases are not read: '*fast' | Write the value out.",
        ),
    ),
    "a merge key": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {«<<: {prompt: x}, id: rate, outputs: [score]}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        ("nodes[1]: merge keys are not read: '<<' | Write the keys out.",),
    ),
    "keys given twice": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- id: rate
  function: rate
  outputs: [score]
  «function: other

edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        ("nodes[1].function: the key 'function' is given twice | It stands on line 14 already.",),
    ),
    "a key that is no text": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
config:
  ? «[a]
  : 1
""",
        ("config: a key is a text | A text that begins with '{', '[' or '*' needs quotes.",),
    ),
    "numbers that cannot be kept": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, default: «123456789012345678901234567890}
    draft: {type: str}
    score: {type: float, default: «.inf}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        (
            "state.fields.topic.default: this number cannot be kept: it has more than 64 bits, or is not finite | Put it in quotes.",
            "state.fields.score.default: this number cannot be kept: it has more than 64 bits, or is not finite | Put it in quotes.",
        ),
    ),
    "YAML 1.1's other words for true and false": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, enum: [on, «true]}
    draft: {type: str, default: no}
    score: {type: int, default: «yes}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        (
            "state.fields.topic.enum[1]: this value is not of the type 'str' | Put it in quotes.",
            "state.fields.score.default: the default does not fit the type int: expected int, got str 'yes' | ",
        ),
    ),
    "nothing but a version, and the wrong one": Broken(
        """\
«schema_version: «2
""",
        (
            "flow: this key is missing | ",
            "state: this key is missing | ",
            "nodes: this key is missing | ",
            "edges: this key is missing | ",
            "schema_version: expected '1.0', got int 2 | ",
        ),
    ),
    "misspelt keys everywhere": Broken(
        """\
schema_version: "1.0"
flow: {name: t, «autor: me}
state:
  fields:
    topic: {type: str, «requird: true}
    draft: {type: str}
nodes:
- id: write
  «promt: '{topic} «{draff}'
  «temprature: 0.2
  outputs: [draft]
  llm: {«modell: gpt-x, price: {input_per_mtok: 1, output_per_mtok: 2, «cache: 3}}
  retry: {«attempts: 2}
edges:
- {from: START, to: write}
- {«form: write, to: END}
«confg: {}
""",
        (
            "flow.autor: unknown key | Did you mean 'author'? The keys here are name, description, version, tags and author.",
            "state.fields.topic.requird: unknown key | Did you mean 'required'? The keys here are type, required, default, description, schema, enum and reduce.",
            "nodes[0].promt: unknown key | Did you mean 'prompt'?",
            "nodes[0].promt: nothing is called 'draff' here | Did you mean 'draft'? Known here are topic and draft.",
            "nodes[0].temprature: unknown key | Did you mean 'llm.temperature': 'temperature' inside of 'llm'?",
            "nodes[0].llm.modell: unknown key | Did you mean 'model'? The keys here are provider, model, temperature, max_tokens, api_base, api_key_env, params and price.",
            "nodes[0].llm.price.cache: unknown key | The keys here are input_per_mtok, output_per_mtok, cache_read_per_mtok and cache_write_per_mtok.",
            "nodes[0].retry.attempts: unknown key | Did you mean 'max_attempts'? The keys here are max_attempts, initial_delay and max_delay.",
            "edges[1].form: unknown key | Did you mean 'from'? The keys here are from, to, routes, loop and parallel.",
            "confg: unknown key | Did you mean 'config'? The keys here are schema_version, flow, state, nodes, edges and config.",
        ),
    ),
    "wrong types": Broken(
        """\
schema_version: "1.0"
flow: {name: «7, tags: «urgent}
state:
  fields:
    topic: «str
    draft: {type: str, required: «maybe}
nodes:
- {id: write, prompt: «{topic}, outputs: [draft]}
- {id: rate, function: rate, timeout: «soon, outputs: «score, inputs: «[a]}
- «just a text
edges:
- {from: START, to: «5}
- {from: write, to: [rate, «5]}
- {from: rate, to: END}
config:
  llm: {temperature: «3, max_tokens: «0, api_base: '«${HOME}/v1'}
  execution: {max_retries: «-1, timeout: «0}
  observability: {logging: {level: «LOUD}}
""",
        (
            "flow.name: expected a text, got int 7 | Put it in quotes.",
            "flow.tags: expected a list, got str 'urgent' | ",
            "state.fields.topic: expected a mapping, got str 'str' | ",
            "state.fields.draft.required: expected true or false, got str 'maybe' | ",
            "nodes[0].prompt: expected a text, got a mapping | Put a text that begins with '{' in quotes.",
            "nodes[1].timeout: expected a number, got str 'soon' | ",
            "nodes[1].outputs: expected a list, got str 'score' | ",
            "nodes[1].inputs: expected a mapping, got a list of 1 | ",
            "nodes[2]: expected a mapping, got str 'just a text' | ",
            "edges[0].to: expected the id of a node, or a list of ids | ",
            "edges[1].to[1]: expected a text, got int 5 | Put it in quotes.",
            "config.llm.temperature: expected at most 2, got int 3 | ",
            "config.llm.max_tokens: expected a number above 0, got int 0 | ",
            "config.llm.api_base: '${HOME}' names no environment variable | Write '${env:NAME}', with the name of an environment variable.",
            "config.execution.max_retries: expected at least 0, got int -1 | ",
            "config.execution.timeout: expected a number above 0, got int 0 | ",
            "config.observability.logging.level: expected 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL', got str 'LOUD' | ",
        ),
    ),
    "keys that are missing": Broken(
        """\
schema_version: "1.0"
flow: «{description: x}
state: {fields: {a: «{default: 1}}}
nodes: [«{prompt: x}]
edges: [«{to: END}]
""",
        (
            "flow.name: this key is missing | ",
            "state.fields.a.type: this key is missing | The types are str, int, float, bool, list, dict, object, list[T] and dict[K, V].",
            "nodes[0].id: this key is missing | ",
            "edges[0].from: this key is missing | ",
        ),
    ),
    "empty collections": Broken(
        """\
schema_version: "1.0"
flow: {name: «''}
state: {fields: «{}}
nodes: «[]
edges: «[]
""",
        (
            "flow.name: expected a text that is not empty, got str '' | ",
            "state.fields: expected at least one entry | ",
            "nodes: expected at least one entry | ",
            "edges: expected at least one entry | ",
            "edges: no edge leaves START, where a run begins | Add '- {from: START, to: first_node}'.",
        ),
    ),
    "ways on of an edge": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- «{from: START}
- «{from: write, to: rate, loop: {condition_field: done}}
- {from: rate, loop: «{condition_field: done, condition: 'state.done'}}
- {from: rate, loop: {condition_field: done, max_iterations: «101}}
""",
        (
            "edges[0]: an edge has exactly one of 'to', 'routes', 'loop' and 'parallel'; this one has none | ",
            "edges[1]: an edge has exactly one of 'to', 'routes', 'loop' and 'parallel'; this one has 'to' and 'loop' | ",
            "edges[2].loop: a loop has either 'condition_field' or 'condition' | ",
            "edges[3].loop.max_iterations: expected at most 100, got int 101 | ",
        ),
    ),
    "the names that keys have in Python": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: object, «schema_: {a: str}}
    draft: {type: str}
nodes:
- {id: write, function: f, outputs: [draft]}
edges:
- {from: START, to: write}
- {«from_: write, to: END}
""",
        (
            "state.fields.topic.schema_: unknown key | Did you mean 'schema'?",
            "edges[1].from_: unknown key | Did you mean 'from'?",
        ),
    ),
    "kinds of nodes": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- «{id: write, outputs: [draft]}
- «{id: rate, prompt: x, function: y, outputs: [score]}
- {id: run, «code: 'print(1)', outputs: [draft]}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: run}
- {from: run, to: END}
""",
        (
            "nodes[0]: a node has exactly one of prompt, function, tool and workflow; this one has none | A node that asks a model has a 'prompt', one that calls a function of yours has 'function'.",
            "nodes[1]: a node has exactly one of prompt, function, tool and workflow; this one has prompt and function | Make a node of each, with an edge between them.",
            "nodes[2].code: a workflow file holds no code | Write a Python function, give it to the caller, and name it here: 'function: name'.",
        ),
    ),
    "ids of nodes": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: «END, function: f}
- {id: «two words, function: f}
- {id: «class, function: f}
- {id: rate, function: f}
- {id: «rate, function: f}
edges:
- {from: START, to: rate}
- {from: rate, to: END}
- {from: class, to: END}
- {from: START, to: class}
- {from: START, to: two words}
- {from: two words, to: END}
""",
        (
            "nodes[0].id: 'END' is no id for a node: it is where a run ends | ",
            "nodes[1].id: 'two words' is no id for a node | An id has letters, digits and '_', does not begin with a digit, and is no Python keyword.",
            "nodes[2].id: 'class' is no id for a node | An id has letters, digits and '_', does not begin with a digit, and is no Python keyword.",
            "nodes[4].id: the id 'rate' is given twice | nodes[3] has it already.",
        ),
    ),
    "what is not supported yet": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: x, outputs: [draft], «tools: [search], «max_tool_rounds: 3, «fallbacks: [{model: gpt-x}]}
- {id: rate, «tool: search}
- {id: sub, «workflow: other.yaml}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: sub}
- {from: sub, to: END}
config:
  «budget: {max_cost_usd: 1}
""",
        (
            "nodes[0].tools: tools are not supported by this version | Remove it.",
            "nodes[0].max_tool_rounds: tool rounds are not supported by this version | Remove it.",
            "nodes[0].fallbacks: fallbacks are not supported by this version | Remove it.",
            "nodes[1].tool: tool nodes are not supported by this version | Remove it.",
            "nodes[2].workflow: workflow nodes are not supported by this version | Remove it.",
            "config.budget: budgets are not supported by this version | Remove it.",
        ),
    ),
    "types of state fields": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: «string}
    draft: {type: str, schema: «{a: int}}
    score: {type: int, default: «high, reduce: «append}
    user: {type: object, schema: {name: str, age: «itn, kind: {type: str, enum: [a, «1]}, more: «{type: object}}}
    bare: {type: «object}
    both: {type: int, required: true, default: «1}
    «two words: {type: int}
    pick: {type: str, enum: [a, b], default: «c}
    pairs: {type: «'dict[str]'}
    empty: {type: str, enum: «[]}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        (
            "state.fields.topic.type: no type is called 'string' | Did you mean 'str'?",
            "state.fields.draft.schema: 'schema' belongs to an object, and 'str' has none | ",
            "state.fields.score.default: the default does not fit the type int: expected int, got str 'high' | ",
            "state.fields.score.reduce: 'append' combines list values, and this field is int | ",
            "state.fields.user.schema.age: no type is called 'itn' | Did you mean 'int'?",
            "state.fields.user.schema.kind.enum[1]: this value is not of the type 'str' | Put it in quotes.",
            "state.fields.user.schema.more: an object needs a 'schema' that names its fields | Add 'schema: {name: type}', or use 'dict' for any fields.",
            "state.fields.bare.type: an object needs a 'schema' that names its fields | Add 'schema: {name: type}', or use 'dict' for any fields.",
            "state.fields.both.default: a field is either required or has a default | Remove one of the two.",
            "state.fields['two words']: 'two words' is no name for a state field | A name has letters, digits and '_', and does not begin with a digit.",
            "state.fields.pick.default: the default does not fit the type str: expected one of 'a', 'b', got str 'c' | ",
            "state.fields.pairs.type: 'dict[str]' is not a type: 'dict' takes two types, as dict[str, int] | Types are str, int, float, bool, list, dict, object, list[T] and dict[K, V].",
            "state.fields.empty.enum: an enum is a list of at least one value | ",
        ),
    ),
    "outputs": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- «{id: write, prompt: x}
- {id: rate, prompt: x, outputs: [«drft, score, «score]}
- id: one
  function: f
  outputs: [score, done]
  output_schema: {type: «int}
- id: two
  function: f
  outputs: [draft, «done]
  output_schema: {type: object, fields: [{name: draft, type: «int}, {name: «score, type: «itn}]}
- id: three
  function: f
  outputs: [draft]
  output_schema: «{type: object}
- id: four
  function: f
  outputs: [draft]
  output_schema: {type: «str, fields: [{name: draft, type: str}, {name: «draft, type: str}]}
- id: five
  function: f
  outputs: [score]
  output_schema: {type: «float}

edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: one}
- {from: one, to: two}
- {from: two, to: three}
- {from: three, to: four}
- {from: four, to: five}
- {from: five, to: END}
""",
        (
            "nodes[0].outputs: a node that asks a model writes its answer: at least one output is needed | Add 'outputs: [name of a state field]'.",
            "nodes[1].outputs[0]: no state field is called 'drft' | Did you mean 'draft'? The fields are topic, draft, score, done, items and notes. Outputs are written to the state: add a field for it.",
            "nodes[1].outputs[2]: the output 'score' is named twice | Remove one.",
            "nodes[2].output_schema.type: one int cannot be 2 outputs | Write 'type: object' with 'fields', one for each output.",
            "nodes[3].outputs[1]: the output_schema has no field 'done' | Add it there.",
            "nodes[3].output_schema.fields[0].type: the output 'draft' is int, and state field 'draft' is str | Write the same type in both.",
            "nodes[3].output_schema.fields[1].name: 'score' is not among the node's outputs | The fields of an output_schema are the node's outputs: name it there, or remove it.",
            "nodes[3].output_schema.fields[1].type: no type is called 'itn' | Did you mean 'int'?",
            "nodes[4].output_schema: an object has 'fields', one for each output | Add 'fields: [{name, type}]'.",
            "nodes[5].output_schema.type: 'fields' belong to 'type: object', and this is 'str' | ",
            "nodes[5].output_schema.fields[1].name: the field 'draft' is given twice | Remove one.",
            "nodes[6].output_schema.type: the output 'score' is float, and state field 'score' is int | Write the same type in both.",
        ),
    ),
    "an enum that is wider than its field's": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, enum: [a, b]}
    draft: {type: str}
    score: {type: int}
nodes:
- {id: write, function: f, outputs: [topic], output_schema: {type: «str, enum: [a, b, c]}}
edges:
- {from: START, to: write}
- {from: write, to: END}
""",
        (
            "nodes[0].output_schema.type: the output 'topic' may have values that state field 'topic' does not allow | Write the same 'enum' in both; the field allows a and b.",
        ),
    ),
    "templates": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
    user: {type: object, schema: {name: str, tags: 'list[str]'}}
nodes:
- id: write
  system: "You are «{rolle}."
  prompt: |
    {topic} {{topic}} «{topik}
    «{topic.name} {user.name} «{user.nmae} {user.tags.0} «{user.tags.first}
    «{topic:>10} «{topic!r} «{ topic } «{} «{len(topic)} «{user[name]} «{state} «{stat.topic}
    «{item} and a brace «}
  outputs: [draft]
- id: rate
  function: rate
  inputs:
    a: "{topic}"
    b: ["«{a}", 5, {c: "«{nothing}"}]
    «state: x
    «two words: x
  outputs: [score]

edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: END}
""",
        (
            "nodes[0].system: nothing is called 'rolle' here | Known here are topic, draft, score, done, items, notes and user.",
            "nodes[0].prompt: nothing is called 'topik' here | Did you mean 'topic'? Known here are topic, draft, score, done, items, notes and user.",
            "nodes[0].prompt: 'topic' is str and has no 'name' | ",
            "nodes[0].prompt: 'user' is object and has no 'nmae' | Did you mean 'name'? Its fields are name and tags.",
            "nodes[0].prompt: 'user.tags' is list[str] and has no 'first' | ",
            "nodes[0].prompt: '{topic:>10}' is no placeholder | A placeholder is a name alone, without a format. Write '{{' and '}}' for literal braces.",
            "nodes[0].prompt: '{topic!r}' is no placeholder | A placeholder is a name alone, without a format. Write '{{' and '}}' for literal braces.",
            "nodes[0].prompt: '{ topic }' is no placeholder | Write it without spaces: '{topic}'. Write '{{' and '}}' for literal braces.",
            "nodes[0].prompt: '{}' is no placeholder | Put a name between the braces. Write '{{' and '}}' for literal braces.",
            "nodes[0].prompt: '{len(topic)}' is no placeholder | A template calls nothing. Write '{{' and '}}' for literal braces.",
            "nodes[0].prompt: '{user[name]}' is no placeholder | Write parts with dots, as '{items.0.name}'. Write '{{' and '}}' for literal braces.",
            "nodes[0].prompt: '{state}' names no field | Write '{state.field}'.",
            "nodes[0].prompt: nothing is called 'stat' here | Did you mean 'state'? Known here are topic, draft, score, done, items, notes, user and state.",
            "nodes[0].prompt: nothing is called 'item' here | Did you mean 'items'? Only the target of a 'parallel' edge has {item}.",
            "nodes[0].prompt: a '}' without its '{' | Write '{{' and '}}' for literal braces.",
            "nodes[1].inputs.b[0]: nothing is called 'a' here | Known here are topic, draft, score, done, items, notes and user.",
            "nodes[1].inputs.b[2].c: nothing is called 'nothing' here | Known here are topic, draft, score, done, items, notes and user.",
            "nodes[1].inputs.state: 'state' is no name for an input | It has letters, digits and '_', does not begin with a digit, and is not 'state'.",
            "nodes[1].inputs['two words']: 'two words' is no name for an input | It has letters, digits and '_', does not begin with a digit, and is not 'state'.",
        ),
    ),
    "names in edges": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- {from: START, to: «wriet}
- {from: «wrote, to: rate}
- {from: «END, to: «START}
- {from: rate, to: [write, «write, «nobody]}
- {from: rate, to: «[]}

""",
        (
            "edges[0].to: no node is called 'wriet' | Did you mean 'write'? Known are write, rate, START and END.",
            "edges[1].from: no node is called 'wrote' | Did you mean 'write'? Known are write, rate, START and END.",
            "edges[2].from: END cannot stand here: nothing goes on after it | ",
            "edges[2].to: START cannot stand here: a run only begins there | ",
            "edges[3].to[1]: 'write' is named twice | A fan-out runs each node once.",
            "edges[3].to[2]: no node is called 'nobody' | Known are write, rate, START and END.",
            "edges[4].to: expected at least one node | Write 'to: END' to finish the run.",
        ),
    ),
    "routes": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- {from: START, to: write}
- from: write
  routes:
  «- {condition: {logic: "«{scor} > 3"}, to: rate}
  - {condition: {logic: "state.topic == «urgent"}, to: END}
  - {condition: {logic: "state.done «&& true"}, to: «nobody}
- from: rate
  routes:
  - {condition: {logic: default}, to: END}
  - {condition: {logic: «default}, to: write}
  - {condition: {logic: "«state.score.high"}, to: write}
  - {condition: {logic: "state.done «= true"}, to: write}

""",
        (
            "edges[1].routes: there is no default route | Add '- {condition: {logic: default}, to: …}': where the run goes when no condition holds.",
            "edges[1].routes[0].condition.logic: '{scor}' is no value of the state | Write state.scor.",
            "edges[1].routes[1].condition.logic: 'urgent' is a bare word | Put text in quotes: 'urgent'; a state field is state.urgent.",
            "edges[1].routes[2].condition.logic: '&&' is not expected here | Write 'and'.",
            "edges[1].routes[2].to: no node is called 'nobody' | Known are write, rate, START and END.",
            "edges[2].routes[1].condition.logic: there is a default route already: routes[0] | Exactly one route is the default.",
            "edges[2].routes[2].condition.logic: 'state.score' is int and has no 'high' | ",
            "edges[2].routes[3].condition.logic: '=' means nothing here | Write '==' to compare.",
        ),
    ),
    "loops": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
- from: START
  loop: «{condition_field: done}
- {from: «START, to: write}
- {from: write, to: rate}
- from: rate
  loop: {condition_field: «score, restart_at: «END, exit_to: «nobody}

""",
        (
            "edges[0].loop: a loop goes back to a node, and START is none | Write 'to' from START.",
            "edges[1].from: 'START' goes on already, by edges[0] | A node has plain 'to' edges, or exactly one edge with 'routes', 'loop' or 'parallel'.",
            "edges[3].loop.condition_field: state field 'score' is int, and the loop ends when it is true: expected bool | ",
            "edges[3].loop.restart_at: END cannot stand here: a loop goes back to a node | ",
            "edges[3].loop.exit_to: no node is called 'nobody' | Known are write, rate, START and END.",
        ),
    ),
    "a loop that does not come back": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
- {id: late, function: f}
edges:
- {from: START, to: write}
- from: write
  loop: {condition_field: done, exit_to: rate, restart_at: «rate}
- {from: rate, to: late}
- from: late
  loop: {condition: "len(«state.nots) > 3", restart_at: rate}

""",
        (
            "edges[1].loop.restart_at: no way leads from 'rate' back to 'write' | A loop restarts at a node before its own, so that it comes round.",
            "edges[3].loop.condition.logic: no state field is called 'nots' | Did you mean 'notes'? The fields are topic, draft, score, done, items and notes.",
        ),
    ),
    "maps": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
    all: {type: 'list[str]', reduce: append}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score], output_schema: {type: int}}
edges:
- {from: START, to: write}
- from: write
  parallel: {items_field: «topic, target_node: rate, collect_field: «notes}
- {from: rate, to: END}

""",
        (
            "edges[1].parallel.items_field: state field 'topic' is str, and a map goes over a list: expected list | ",
            "edges[1].parallel.collect_field: the target gives int, and state field 'notes' is list[str] | Write a list of what one execution of the target gives.",
        ),
    ),
    "maps that cannot be": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
    all: {type: 'list[int]', reduce: append}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
- {id: last, function: f, outputs: [score]}
edges:
- from: START
  parallel: {items_field: items, target_node: write, collect_field: notes}
- from: write
  parallel: {items_field: items, target_node: «write, collect_field: «nots}
- {from: rate, to: write}
- from: last
  parallel: {items_field: items, target_node: rate, collect_field: «all}

""",
        (
            "edges[1].parallel.target_node: 'write' cannot be a map's target: a node cannot run itself for each item | ",
            "edges[1].parallel.collect_field: no state field is called 'nots' | Did you mean 'notes'? The fields are topic, draft, score, done, items, notes and all.",
            "edges[3].parallel.collect_field: a map sets the whole list, so that 'reduce: append' means nothing here | Give the map a field of its own to collect in.",
        ),
    ),
    "ways on of nodes": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
- {id: «lost, function: f}
- {id: «round, function: f}
- {id: «about, function: f}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: «write, routes: [{condition: {logic: default}, to: rate}]}
- {from: write, to: «rate}
- {from: rate, to: END}
- {from: round, to: about}
- {from: about, to: round}

""",
        (
            "nodes[2].id: node 'lost' has no way on | Add an edge from it; 'to: END' finishes the run.",
            "nodes[2].id: node 'lost' cannot be reached from START | Lead an edge to it, or remove it.",
            "nodes[3].id: node 'round' cannot be reached from START | Lead an edge to it, or remove it.",
            "nodes[3].id: no way leads from node 'round' to END | Lead one of the edges after it out of the circle, at last to END.",
            "nodes[4].id: node 'about' cannot be reached from START | Lead an edge to it, or remove it.",
            "nodes[4].id: no way leads from node 'about' to END | Lead one of the edges after it out of the circle, at last to END.",
            "edges[2].from: 'write' goes on already, by edges[1] | A node has plain 'to' edges, or exactly one edge with 'routes', 'loop' or 'parallel'.",
            "edges[3].to: there is an edge from 'write' to 'rate' already | A fan-out runs each node once.",
        ),
    ),
    "no way in": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
edges:
«- {from: write, to: rate}
- {from: rate, to: END}
""",
        ("edges: no edge leaves START, where a run begins | Add '- {from: START, to: first_node}'.",),
    ),
    "a circle without an end": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: «write, prompt: x, outputs: [draft]}
- {id: «rate, function: f}
edges:
- {from: START, to: write}
- {from: write, to: rate}
- {from: rate, to: write}
""",
        (
            "nodes[0].id: no way leads from node 'write' to END | Lead one of the edges after it out of the circle, at last to END.",
            "nodes[1].id: no way leads from node 'rate' to END | Lead one of the edges after it out of the circle, at last to END.",
        ),
    ),
    "writes that collide": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
- {id: other, function: f, outputs: [done, «score]}
- {id: twin, function: f, outputs: [notes]}
- {id: each, prompt: '{item}', outputs: [note]}
edges:
- {from: START, to: write}
- {from: write, to: [rate, other, twin]}
- {from: rate, to: END}
- {from: other, to: END}
- from: twin
  parallel: {items_field: items, target_node: each, collect_field: notes}
- {from: each, to: END}

""",
        (
            "nodes[2].outputs[1]: 'rate' and 'other' may run at once, and both write 'score' | Let them write different fields, or say in the field how writes combine: 'reduce: append' (or merge, sum, min, max).",
        ),
    ),
    "the environment": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: x, outputs: [draft], llm: {api_base: «'${env:BASE}'}}
edges:
- {from: START, to: write}
- {from: write, to: END}
config:
  llm: {api_base: 'http://«${HOST}:${env:PORT}', params: {a: ['«${env:}']}}
""",
        (
            "nodes[0].llm.api_base: a node's 'llm' is not filled in from the environment | It is filled in under 'config' only; 'api_key_env' names a variable here too.",
            "config.llm.api_base: '${HOST}' names no environment variable | Write '${env:NAME}', with the name of an environment variable.",
            "config.llm.params.a[0]: '${env:}' names no environment variable | Write '${env:NAME}', with the name of an environment variable.",
        ),
    ),
    "as JSON, with tabs": Broken(
        """\
{
\t"schema_version": "1.0",
\t"flow": {"name": "\\ud83d\\ude00",
\t\t«"vesion": "1"},
\t"state": {"fields": {"a": {"type": «"strr"}}},
\t"nodes": [{"id": "n", "prompt": "«{b}", "outputs": ["a"]}],
\t"edges": [{"from":"START","to":"n"},{"from":"n","to":«"END1"}]
}""",
        (
            "flow.vesion: unknown key | Did you mean 'version'? The keys here are name, description, version, tags and author.",
            "state.fields.a.type: no type is called 'strr' | Did you mean 'str'?",
            "nodes[0].prompt: nothing is called 'b' here | Known here are a.",
            "edges[1].to: no node is called 'END1' | Did you mean 'END'? Known are n, START and END.",
        ),
    ),
    "a map's target with another way in": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
    pairs: {type: 'list[dict[str, int]]', default: []}
    rows: {type: 'list[int]', default: []}
nodes:
- {id: each, function: f, outputs: [note], inputs: {i: '«{index.x}', a: '«{item.b}'}}
- {id: both, function: f}
- {id: last, function: f}
- «{id: none, function: f}
edges:
- {from: START, to: last}
- from: last
  parallel: {items_field: items, target_node: «each, collect_field: notes}
- from: each
  loop: {condition_field: done, exit_to: both}
- from: both
  parallel: {items_field: items, target_node: none, collect_field: rows}
- {from: none, to: END}

""",
        (
            "nodes[0].inputs.i: 'index' is int and has no 'x' | ",
            "nodes[0].inputs.a: 'item' is str and has no 'b' | ",
            "nodes[3].outputs: a map collects what its target gives: at least one output is needed | Add 'outputs: [name of a state field]'.",
            "edges[1].parallel.target_node: 'each' is a map's target and has another way in: edges[2] | A map's target runs for items alone; make a second node for the other way.",
        ),
    ),
    "what a map collects": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
    rows: {type: 'list[object]', schema: {a: int}}
    pairs: {type: 'list[dict[str, int]]'}
nodes:
- {id: each, function: f, outputs: [a, b]}
- {id: both, function: f, outputs: [a, b], output_schema: {type: object, fields: [{name: a, type: int}, {name: b, type: str}]}}
edges:
- from: START
  parallel: {items_field: items, target_node: each, collect_field: «rows}
- from: each
  parallel: {items_field: items, target_node: both, collect_field: «pairs}
- {from: both, to: END}

""",
        (
            "edges[0].parallel.collect_field: 'rows' is list[object]: its elements have no 'b' | The target's outputs are the fields of what is collected.",
            "edges[1].parallel.collect_field: the target gives object, and state field 'pairs' is list[dict[str, int]] | Write a list of what one execution of the target gives.",
        ),
    ),
    "maps that collide": Broken(
        """\
schema_version: "1.0"
flow: {name: t}
state:
  fields:
    topic: {type: str, required: true}
    draft: {type: str}
    score: {type: int, default: 0}
    done: {type: bool, default: false}
    items: {type: 'list[str]', default: []}
    notes: {type: 'list[str]', default: []}
nodes:
- {id: write, prompt: '{topic}', outputs: [draft]}
- {id: rate, function: rate, outputs: [score]}
- {id: left, function: f}
- {id: right, function: f}
- {id: one, function: f, outputs: [a]}
- {id: two, function: f, outputs: [a]}
edges:
- {from: START, to: [left, right]}
- from: left
  parallel: {items_field: items, target_node: one, collect_field: notes}
- from: right
  parallel: {items_field: items, target_node: two, collect_field: «notes}
- {from: one, to: write}
- {from: two, to: write}
- {from: write, to: rate}
- {from: rate, to: END}

""",
        (
            "edges[2].parallel.collect_field: 'one' and 'two' may run at once, and both write 'notes' | Let them write different fields.",
        ),
    ),
}
