"""RNN or Transformer? Models compared by what they cost and what they can do, measured on the machine at hand.

One file a question: `data_handling` (sequential or parallel), `attention_or_none`, `weight` (light or heavy),
`generating`, `gradient_flow` with `memory_tasks` (vanishing and exploding gradients), `quality` with
`learning_curves`, `generalisation`. Each of them measures, draws and says what was seen:

    measure(candidates, options) -> dict     plain values, as JSON holds them
    section(result) -> Section               words, tables and plots, made from those values alone

`command` asks them one after another, `report` writes what they say.
"""
