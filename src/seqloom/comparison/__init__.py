"""RNN or Transformer? Models compared by what they cost and what they can do, measured on the machine at hand.

One file a question. Each of them measures, draws and says what was seen:

    measure(candidates, options) -> dict     plain values, as JSON holds them
    section(result) -> Section               words, tables and plots, made from those values alone

- `quality`: scores, intervals, paired tests, wins and losses; `learning_curves` (with `logs`): at equal budgets
- `attention_or_none`: quality against the source's length, a task of pure recall, maps
- `data_handling` (with `training_steps`): sequential or parallel, time against length
- `weight` (with `flops`, `footprint`): light or heavy
- `generating` (with `generate_calls`): milliseconds a token, sentences a second, bytes a sentence
- `memory_tasks` (with `memory_networks`), `gradient_flow` (with `gradients`): vanishing and exploding gradients
- `generalisation`: the splits of SCAN

`command` asks them one after another, `trainings` trains what they need, `timing` is their clock, and `report` writes
what they say.
"""
