"""compare-mt's definitions (Neubig et al. 2019, arXiv:1903.07926), written step by step: a word of an output takes the
next free place of that word in the reference, if there is one."""


def word_counts(outputs, references, frequency, bounds):
    """For each bucket, which ends below its bound: [right, of the output, of the reference]."""

    def bucket(word):
        return sum(frequency.get(word, 0) >= bound for bound in bounds)

    found = [[0, 0, 0] for _ in range(len(bounds) + 1)]
    for output, reference in zip(outputs, references, strict=True):
        free = list(reference)
        for word in reference:
            found[bucket(word)][2] += 1
        for word in output:
            found[bucket(word)][1] += 1
            if word in free:
                free.remove(word)
                found[bucket(word)][0] += 1
    return found


def f_measure(right, of_output, of_reference):
    """Harmonic mean of precision and recall, in percent."""
    if not right:
        return 0.0
    precision, recall = right / of_output, right / of_reference
    return 100 * 2 * precision * recall / (precision + recall)


def right_ngrams(outputs, references, longest=4):
    """How often each n-gram of the outputs is right."""
    found = {}
    for output, reference in zip(outputs, references, strict=True):
        for length in range(1, longest + 1):
            free = [tuple(reference[i : i + length]) for i in range(len(reference) - length + 1)]
            for i in range(len(output) - length + 1):
                ngram = tuple(output[i : i + length])
                if ngram in free:
                    free.remove(ngram)
                    found[ngram] = found.get(ngram, 0) + 1
    return found


def salience(ours, theirs, alpha=1.0):
    """Its score of a difference, by which n-grams are sorted."""
    return {
        key: (ours.get(key, 0) + alpha) / (ours.get(key, 0) + theirs.get(key, 0) + 2 * alpha)
        for key in {*ours, *theirs}
    }
