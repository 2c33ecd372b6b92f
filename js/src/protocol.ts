/** Made by `js/protocol.py` from `deepseek_lab/base/events.py`: change it there. */

export const SCHEMA_VERSION = 1;

/** The version of the package that this front end belongs to. */
export const VERSION = "0.1.0";

/** One operation of a captured graph. */
export interface GraphNode {
  readonly name: string;
  readonly op: string;
  readonly module: string;
  readonly inputs: readonly string[];
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly file: string;
  readonly line: number;
}

/** One thing that a plan does to hold less. */
export interface MemoryStep {
  readonly action: string;
  readonly where: readonly string[];
  readonly saved_bytes: number;
  readonly seconds: number;
}

/** A size of the micro-batches of an update that was tried. */
export interface MicroBatch {
  readonly size: number;
  readonly samples_per_s: number | null;
  readonly peak_bytes: number | null;
}

/** How a rank of a training is doing: rates are those of the last seconds, and when it has ended of the whole. */
export interface RankVitals {
  readonly rank: number;
  readonly state: string;
  readonly why: string;
  readonly num_replaced: number;
  readonly num_updates: number;
  readonly updates_per_s: number | null;
  readonly samples_per_s: number | null;
  readonly waiting: number | null;
  readonly late_s: number | null;
  readonly memory_bytes: number | null;
  readonly device_bytes: number | null;
  readonly loss: number | null;
  readonly link_bytes_per_s: number | null;
}

/** How well small trials tell what whole ones give. */
export interface Rank {
  readonly cost: number;
  readonly correlation: number;
  readonly num: number;
}

/** A configuration beside the defaults, on the same fresh seeds. */
export interface Compared {
  readonly config: string;
  readonly defaults: readonly number[];
  readonly found: readonly number[];
  readonly difference: number;
  readonly ci95: readonly [number, number] | null;
  readonly unseen: boolean;
}

/** One line of the user's, in the cell or in another cell or file that it called. */
export interface LineCost {
  readonly file: string;
  readonly line: number;
  readonly text: string;
  readonly in_cell: boolean;
  readonly self_s: number;
  readonly total_s: number;
  readonly waiting_s: number;
  readonly allocated_bytes: number | null;
  readonly kept_bytes: number | null;
}

/** One module, what it calls included, in the time that was recorded operator by operator. */
export interface ModuleCost {
  readonly path: string;
  readonly type_name: string;
  readonly num_calls: number;
  readonly forward_s: number;
  readonly backward_s: number;
  readonly flops: number;
  readonly allocated_bytes: number;
}

/** One operator, without the operators that it calls, in the time that was recorded. */
export interface OperatorCost {
  readonly name: string;
  readonly num_calls: number;
  readonly self_s: number;
  readonly flops: number;
  readonly moved_bytes: number;
  readonly allocated_bytes: number;
}

/** A change that was tried: captured again with what the cell's calls were given, nothing of the user's called. */
export interface TriedFix {
  readonly change: string;
  readonly works: boolean;
  readonly effect: string;
}

/** What torch.compile spent time on while a cell ran. */
export interface CompileCost {
  readonly kind: string;
  readonly function: string;
  readonly file: string;
  readonly line: number;
  readonly text: string;
  readonly in_cell: boolean;
  readonly count: number;
  readonly seconds: number;
  readonly cause: string;
  readonly fix: TriedFix | null;
}

/** What this machine does at best, as measured in this process with its number of threads. */
export interface Limits {
  readonly flops_per_s: number;
  readonly bytes_per_s: number;
  readonly num_threads: number;
}

/** One cell that was profiled. */
export interface CellCosts {
  readonly wall_s: number;
  readonly overhead_s: number;
  readonly lines: readonly LineCost[];
  readonly modules: readonly ModuleCost[];
  readonly operators: readonly OperatorCost[];
  readonly compilations: readonly CompileCost[];
  readonly phases: Readonly<Record<string, number>>;
  readonly waiting_s: number;
  readonly num_samples: number;
  readonly recorded_s: number;
  readonly recording_s: number;
  readonly peak_bytes: number | null;
  readonly start_bytes: number | null;
  readonly peak_at: readonly [string, number] | null;
  readonly limits: Limits | null;
  readonly error: string;
  readonly notes: readonly string[];
}

/** A region opened or a call of the public API began. */
export interface RunStarted {
  readonly kind: "run_started";
  readonly run: string;
  readonly at_s: number;
  readonly verb: string;
  readonly targets: readonly string[];
  readonly flags: Readonly<Record<string, string>>;
  readonly source: string;
  readonly cell: string;
}

/** What the numbers of this run were measured on. */
export interface MachineSeen {
  readonly kind: "machine_seen";
  readonly run: string;
  readonly at_s: number;
  readonly processor: string;
  readonly num_threads: number;
  readonly memory_bytes: number;
  readonly versions: Readonly<Record<string, string>>;
}

/** Something the region called that can be optimised. */
export interface TargetFound {
  readonly kind: "target_found";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly type_name: string;
  readonly num_parameters: number;
  readonly parameter_bytes: number;
}

/** A graph was captured from a call of the target. */
export interface GraphCaptured {
  readonly kind: "graph_captured";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly graph: string;
  readonly nodes: readonly GraphNode[];
  readonly signature: string;
  readonly capture_s: number;
  readonly dynamic: boolean;
}

/** Capture stopped here and Python went on by itself. */
export interface GraphBreak {
  readonly kind: "graph_break";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly reason: string;
  readonly file: string;
  readonly line: number;
}

/** The builder began to build a candidate. */
export interface CandidateStarted {
  readonly kind: "candidate_started";
  readonly run: string;
  readonly at_s: number;
  readonly graph: string;
  readonly candidate: string;
}

/** A candidate's verdict. */
export interface CandidateEnded {
  readonly kind: "candidate_ended";
  readonly run: string;
  readonly at_s: number;
  readonly graph: string;
  readonly candidate: string;
  readonly status: string;
  readonly reason: string;
  readonly build_s: number;
  readonly cached: boolean;
  readonly median_ms: number | null;
  readonly eager_ms: number | null;
  readonly speedup: number | null;
  readonly speedup_ci95: readonly [number, number] | null;
  readonly max_rel_error: number | null;
  readonly eager_rel_error: number | null;
}

/** What runs for a graph from now on; ``code`` is the plan as readable Python. */
export interface PlanChosen {
  readonly kind: "plan_chosen";
  readonly run: string;
  readonly at_s: number;
  readonly graph: string;
  readonly candidate: string;
  readonly code: string;
  readonly nodes: readonly GraphNode[];
  readonly coverage: number;
}

/** The target raced as a whole, in the user's process, on the live inputs. */
export interface LiveMeasured {
  readonly kind: "live_measured";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly graph: string;
  readonly eager_ms: number;
  readonly median_ms: number;
  readonly speedup: number;
  readonly speedup_ci95: readonly [number, number];
  readonly num_rounds: number;
  readonly load: number;
}

/** The final word on a graph: what was installed, or why eager was kept. */
export interface Decided {
  readonly kind: "decided";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly graph: string;
  readonly chosen: string;
  readonly reason: string;
}

/** How a model is to train within a limit, as a rehearsal without values predicts it. */
export interface MemoryPlanned {
  readonly kind: "memory_planned";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly limit_bytes: number;
  readonly plain_bytes: number;
  readonly predicted_bytes: number;
  readonly lasting_bytes: number;
  readonly phase: string;
  readonly fits: boolean;
  readonly steps: readonly MemoryStep[];
  readonly extra_ms: number;
  readonly code: string;
  readonly reason: string;
}

/** What a training step really held, at most. */
export interface MemoryMeasured {
  readonly kind: "memory_measured";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly peak_bytes: number;
  readonly process_bytes: number | null;
  readonly step_ms: number;
}

/** Gradients are accumulated until an update has seen ``num_samples``; said once chosen, and at the cell's end. */
export interface BatchAccumulated {
  readonly kind: "batch_accumulated";
  readonly run: string;
  readonly at_s: number;
  readonly num_samples: number;
  readonly micro_batch: number;
  readonly own_batch: number;
  readonly reduction: string;
  readonly num_updates: number;
  readonly num_micro_batches: number;
  readonly speedup: number | null;
  readonly speedup_ci95: readonly [number, number] | null;
  readonly tried: readonly MicroBatch[];
  readonly reason: string;
  readonly notes: readonly string[];
}

/** A call ran in eager mode although something faster was installed; ``reason`` says why. */
export interface FellBack {
  readonly kind: "fell_back";
  readonly run: string;
  readonly at_s: number;
  readonly target: string;
  readonly reason: string;
}

/** How far a run is; ``total`` is None where nobody knows it. */
export interface Progressed {
  readonly kind: "progressed";
  readonly run: string;
  readonly at_s: number;
  readonly done: number;
  readonly total: number | null;
  readonly unit: string;
}

/** What one step of a run gave, by name: a loss, a rate, bytes in use. */
export interface Measured {
  readonly kind: "measured";
  readonly run: string;
  readonly at_s: number;
  readonly step: number;
  readonly values: Readonly<Record<string, number>>;
}

/** How all ranks of a training are doing; each word replaces the one before. */
export interface RanksSeen {
  readonly kind: "ranks_seen";
  readonly run: string;
  readonly at_s: number;
  readonly ranks: readonly RankVitals[];
}

/** A search over the ranges that stand in a cell began. */
export interface SearchStarted {
  readonly kind: "search_started";
  readonly run: string;
  readonly at_s: number;
  readonly study: string;
  readonly metrics: readonly string[];
  readonly directions: readonly string[];
  readonly num_trials: number | null;
  readonly limit_s: number | null;
  readonly num_workers: number;
  readonly sampler: string;
  readonly num_found: number;
}

/** A range stands in the cell. */
export interface SpaceFound {
  readonly kind: "space_found";
  readonly run: string;
  readonly at_s: number;
  readonly name: string;
  readonly space: string;
  readonly low: number;
  readonly high: number;
  readonly labels: readonly string[];
  readonly default: string;
}

/** A trial runs. Its values are chosen as it asks for them and come when it has ended. */
export interface TrialBegan {
  readonly kind: "trial_began";
  readonly run: string;
  readonly at_s: number;
  readonly trial: number;
  readonly config: string;
  readonly purpose: string;
  readonly cost: number;
}

/** A trial has come so far. */
export interface TrialReported {
  readonly kind: "trial_reported";
  readonly run: string;
  readonly at_s: number;
  readonly trial: number;
  readonly step: number;
  readonly value: number;
}

/** A trial is over. */
export interface TrialEnded {
  readonly kind: "trial_ended";
  readonly run: string;
  readonly at_s: number;
  readonly trial: number;
  readonly config: string;
  readonly purpose: string;
  readonly cost: number;
  readonly status: string;
  readonly numbers: Readonly<Record<string, number>>;
  readonly labels: Readonly<Record<string, string>>;
  readonly values: readonly number[];
  readonly curve: readonly (readonly [number, number])[];
  readonly seconds: number;
  readonly error: string;
  readonly allowed: boolean;
}

/** What is known of the search as a whole; each word replaces the one before. */
export interface SearchJudged {
  readonly kind: "search_judged";
  readonly run: string;
  readonly at_s: number;
  readonly ranks: readonly Rank[];
  readonly importances: Readonly<Record<string, number>>;
}

/** The best configuration was run beside the defaults. */
export interface SearchCompared {
  readonly kind: "search_compared";
  readonly run: string;
  readonly at_s: number;
  readonly compared: Compared;
}

/** A cell or a statement has run while it was measured. */
export interface CellProfiled {
  readonly kind: "cell_profiled";
  readonly run: string;
  readonly at_s: number;
  readonly costs: CellCosts;
}

/** One sentence for the user. */
export interface Noted {
  readonly kind: "noted";
  readonly run: string;
  readonly at_s: number;
  readonly text: string;
}

/** Nothing more is under way for this run. */
export interface RunEnded {
  readonly kind: "run_ended";
  readonly run: string;
  readonly at_s: number;
  readonly reason: string;
}

export type AnyEvent =
  | RunStarted
  | MachineSeen
  | TargetFound
  | GraphCaptured
  | GraphBreak
  | CandidateStarted
  | CandidateEnded
  | PlanChosen
  | LiveMeasured
  | Decided
  | MemoryPlanned
  | MemoryMeasured
  | BatchAccumulated
  | FellBack
  | Progressed
  | Measured
  | RanksSeen
  | SearchStarted
  | SpaceFound
  | TrialBegan
  | TrialReported
  | TrialEnded
  | SearchJudged
  | SearchCompared
  | CellProfiled
  | Noted
  | RunEnded;

/** What a field must hold: a word, or a list of a word and what it is made of. */
export type Shape =
  | "string"
  | "number"
  | "boolean"
  | readonly ["optional" | "list" | "map", Shape]
  | readonly ["tuple", readonly Shape[]]
  | readonly ["record", Readonly<Record<string, Shape>>];

/** The fields of each kind of event. */
export const SHAPES: Readonly<Record<AnyEvent["kind"], Readonly<Record<string, Shape>>>> = {
  "run_started": {
    "run": "string",
    "at_s": "number",
    "verb": "string",
    "targets": [
      "list",
      "string"
    ],
    "flags": [
      "map",
      "string"
    ],
    "source": "string",
    "cell": "string"
  },
  "machine_seen": {
    "run": "string",
    "at_s": "number",
    "processor": "string",
    "num_threads": "number",
    "memory_bytes": "number",
    "versions": [
      "map",
      "string"
    ]
  },
  "target_found": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "type_name": "string",
    "num_parameters": "number",
    "parameter_bytes": "number"
  },
  "graph_captured": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "graph": "string",
    "nodes": [
      "list",
      [
        "record",
        {
          "name": "string",
          "op": "string",
          "module": "string",
          "inputs": [
            "list",
            "string"
          ],
          "shape": [
            "list",
            "number"
          ],
          "dtype": "string",
          "file": "string",
          "line": "number"
        }
      ]
    ],
    "signature": "string",
    "capture_s": "number",
    "dynamic": "boolean"
  },
  "graph_break": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "reason": "string",
    "file": "string",
    "line": "number"
  },
  "candidate_started": {
    "run": "string",
    "at_s": "number",
    "graph": "string",
    "candidate": "string"
  },
  "candidate_ended": {
    "run": "string",
    "at_s": "number",
    "graph": "string",
    "candidate": "string",
    "status": "string",
    "reason": "string",
    "build_s": "number",
    "cached": "boolean",
    "median_ms": [
      "optional",
      "number"
    ],
    "eager_ms": [
      "optional",
      "number"
    ],
    "speedup": [
      "optional",
      "number"
    ],
    "speedup_ci95": [
      "optional",
      [
        "tuple",
        [
          "number",
          "number"
        ]
      ]
    ],
    "max_rel_error": [
      "optional",
      "number"
    ],
    "eager_rel_error": [
      "optional",
      "number"
    ]
  },
  "plan_chosen": {
    "run": "string",
    "at_s": "number",
    "graph": "string",
    "candidate": "string",
    "code": "string",
    "nodes": [
      "list",
      [
        "record",
        {
          "name": "string",
          "op": "string",
          "module": "string",
          "inputs": [
            "list",
            "string"
          ],
          "shape": [
            "list",
            "number"
          ],
          "dtype": "string",
          "file": "string",
          "line": "number"
        }
      ]
    ],
    "coverage": "number"
  },
  "live_measured": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "graph": "string",
    "eager_ms": "number",
    "median_ms": "number",
    "speedup": "number",
    "speedup_ci95": [
      "tuple",
      [
        "number",
        "number"
      ]
    ],
    "num_rounds": "number",
    "load": "number"
  },
  "decided": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "graph": "string",
    "chosen": "string",
    "reason": "string"
  },
  "memory_planned": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "limit_bytes": "number",
    "plain_bytes": "number",
    "predicted_bytes": "number",
    "lasting_bytes": "number",
    "phase": "string",
    "fits": "boolean",
    "steps": [
      "list",
      [
        "record",
        {
          "action": "string",
          "where": [
            "list",
            "string"
          ],
          "saved_bytes": "number",
          "seconds": "number"
        }
      ]
    ],
    "extra_ms": "number",
    "code": "string",
    "reason": "string"
  },
  "memory_measured": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "peak_bytes": "number",
    "process_bytes": [
      "optional",
      "number"
    ],
    "step_ms": "number"
  },
  "batch_accumulated": {
    "run": "string",
    "at_s": "number",
    "num_samples": "number",
    "micro_batch": "number",
    "own_batch": "number",
    "reduction": "string",
    "num_updates": "number",
    "num_micro_batches": "number",
    "speedup": [
      "optional",
      "number"
    ],
    "speedup_ci95": [
      "optional",
      [
        "tuple",
        [
          "number",
          "number"
        ]
      ]
    ],
    "tried": [
      "list",
      [
        "record",
        {
          "size": "number",
          "samples_per_s": [
            "optional",
            "number"
          ],
          "peak_bytes": [
            "optional",
            "number"
          ]
        }
      ]
    ],
    "reason": "string",
    "notes": [
      "list",
      "string"
    ]
  },
  "fell_back": {
    "run": "string",
    "at_s": "number",
    "target": "string",
    "reason": "string"
  },
  "progressed": {
    "run": "string",
    "at_s": "number",
    "done": "number",
    "total": [
      "optional",
      "number"
    ],
    "unit": "string"
  },
  "measured": {
    "run": "string",
    "at_s": "number",
    "step": "number",
    "values": [
      "map",
      "number"
    ]
  },
  "ranks_seen": {
    "run": "string",
    "at_s": "number",
    "ranks": [
      "list",
      [
        "record",
        {
          "rank": "number",
          "state": "string",
          "why": "string",
          "num_replaced": "number",
          "num_updates": "number",
          "updates_per_s": [
            "optional",
            "number"
          ],
          "samples_per_s": [
            "optional",
            "number"
          ],
          "waiting": [
            "optional",
            "number"
          ],
          "late_s": [
            "optional",
            "number"
          ],
          "memory_bytes": [
            "optional",
            "number"
          ],
          "device_bytes": [
            "optional",
            "number"
          ],
          "loss": [
            "optional",
            "number"
          ],
          "link_bytes_per_s": [
            "optional",
            "number"
          ]
        }
      ]
    ]
  },
  "search_started": {
    "run": "string",
    "at_s": "number",
    "study": "string",
    "metrics": [
      "list",
      "string"
    ],
    "directions": [
      "list",
      "string"
    ],
    "num_trials": [
      "optional",
      "number"
    ],
    "limit_s": [
      "optional",
      "number"
    ],
    "num_workers": "number",
    "sampler": "string",
    "num_found": "number"
  },
  "space_found": {
    "run": "string",
    "at_s": "number",
    "name": "string",
    "space": "string",
    "low": "number",
    "high": "number",
    "labels": [
      "list",
      "string"
    ],
    "default": "string"
  },
  "trial_began": {
    "run": "string",
    "at_s": "number",
    "trial": "number",
    "config": "string",
    "purpose": "string",
    "cost": "number"
  },
  "trial_reported": {
    "run": "string",
    "at_s": "number",
    "trial": "number",
    "step": "number",
    "value": "number"
  },
  "trial_ended": {
    "run": "string",
    "at_s": "number",
    "trial": "number",
    "config": "string",
    "purpose": "string",
    "cost": "number",
    "status": "string",
    "numbers": [
      "map",
      "number"
    ],
    "labels": [
      "map",
      "string"
    ],
    "values": [
      "list",
      "number"
    ],
    "curve": [
      "list",
      [
        "tuple",
        [
          "number",
          "number"
        ]
      ]
    ],
    "seconds": "number",
    "error": "string",
    "allowed": "boolean"
  },
  "search_judged": {
    "run": "string",
    "at_s": "number",
    "ranks": [
      "list",
      [
        "record",
        {
          "cost": "number",
          "correlation": "number",
          "num": "number"
        }
      ]
    ],
    "importances": [
      "map",
      "number"
    ]
  },
  "search_compared": {
    "run": "string",
    "at_s": "number",
    "compared": [
      "record",
      {
        "config": "string",
        "defaults": [
          "list",
          "number"
        ],
        "found": [
          "list",
          "number"
        ],
        "difference": "number",
        "ci95": [
          "optional",
          [
            "tuple",
            [
              "number",
              "number"
            ]
          ]
        ],
        "unseen": "boolean"
      }
    ]
  },
  "cell_profiled": {
    "run": "string",
    "at_s": "number",
    "costs": [
      "record",
      {
        "wall_s": "number",
        "overhead_s": "number",
        "lines": [
          "list",
          [
            "record",
            {
              "file": "string",
              "line": "number",
              "text": "string",
              "in_cell": "boolean",
              "self_s": "number",
              "total_s": "number",
              "waiting_s": "number",
              "allocated_bytes": [
                "optional",
                "number"
              ],
              "kept_bytes": [
                "optional",
                "number"
              ]
            }
          ]
        ],
        "modules": [
          "list",
          [
            "record",
            {
              "path": "string",
              "type_name": "string",
              "num_calls": "number",
              "forward_s": "number",
              "backward_s": "number",
              "flops": "number",
              "allocated_bytes": "number"
            }
          ]
        ],
        "operators": [
          "list",
          [
            "record",
            {
              "name": "string",
              "num_calls": "number",
              "self_s": "number",
              "flops": "number",
              "moved_bytes": "number",
              "allocated_bytes": "number"
            }
          ]
        ],
        "compilations": [
          "list",
          [
            "record",
            {
              "kind": "string",
              "function": "string",
              "file": "string",
              "line": "number",
              "text": "string",
              "in_cell": "boolean",
              "count": "number",
              "seconds": "number",
              "cause": "string",
              "fix": [
                "optional",
                [
                  "record",
                  {
                    "change": "string",
                    "works": "boolean",
                    "effect": "string"
                  }
                ]
              ]
            }
          ]
        ],
        "phases": [
          "map",
          "number"
        ],
        "waiting_s": "number",
        "num_samples": "number",
        "recorded_s": "number",
        "recording_s": "number",
        "peak_bytes": [
          "optional",
          "number"
        ],
        "start_bytes": [
          "optional",
          "number"
        ],
        "peak_at": [
          "optional",
          [
            "tuple",
            [
              "string",
              "number"
            ]
          ]
        ],
        "limits": [
          "optional",
          [
            "record",
            {
              "flops_per_s": "number",
              "bytes_per_s": "number",
              "num_threads": "number"
            }
          ]
        ],
        "error": "string",
        "notes": [
          "list",
          "string"
        ]
      }
    ]
  },
  "noted": {
    "run": "string",
    "at_s": "number",
    "text": "string"
  },
  "run_ended": {
    "run": "string",
    "at_s": "number",
    "reason": "string"
  }
};
