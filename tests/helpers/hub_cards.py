"""What the Hub says to the header of a model's card or a Space's (its README), for the Hub of the tests."""

import re

import yaml


def words(text: str) -> list[str]:
    return re.findall(r"\S+", text)


LICENSES = words(
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause "
    "bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 "
    "epl-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 lppl-1.3c mit "
    "mpl-2.0 ms-pl mulanpsl-2.0 ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 other pddl postgresql unknown "
    "unlicense wtfpl zlib"
)
# ISO 639-1; of the codes of three letters the form alone is checked
LANGUAGES = words(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu code multilingual"
)
PIPELINE_TAGS = words(
    "text-classification token-classification table-question-answering question-answering zero-shot-classification "
    "translation summarization feature-extraction text-generation fill-mask sentence-similarity text-ranking other"
)


COLOURS = words("red yellow green blue indigo purple pink gray")


def check_space(text: str) -> tuple[list[str], list[str]]:
    """`check_card`, and what a Space needs to be built."""
    errors, warnings = check_card(text)
    card = {} if errors or warnings else yaml.safe_load(text.split("---")[1])
    if card.get("sdk") not in ("gradio", "docker", "static"):
        return [*errors, '"sdk" must be one of [gradio, docker, static]'], warnings
    errors += [f'"{key}" must be one of {COLOURS}' for key in ("colorFrom", "colorTo") if card.get(key) not in COLOURS]
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(card.get("sdk_version"))):
        errors.append('"sdk_version" must be a valid version')
    return errors, warnings


def check_card(text: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a README's header, as far as the Hub would have them for a model."""
    header = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|$)", text, flags=re.DOTALL)
    try:
        card = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        return [f"YAML cannot be read: {error}"], []
    if not card:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ["the metadata must be a mapping"], []
    errors = []

    def listed(name: str) -> list:
        value = card.get(name)
        return value if isinstance(value, list) else [] if value is None else [value]

    def lack(name: str, part: object, *keys: str) -> bool:
        missing = [key for key in keys if not isinstance(part, dict) or part.get(key) in (None, "", [])]
        errors.extend(f'"{name}.{key}" is required' for key in missing)
        return bool(missing)

    errors += [f'"license" must be one of {LICENSES}' for value in listed("license") if value not in LICENSES]
    for value in listed("language"):
        if value not in LANGUAGES and not re.fullmatch("[a-z]{3}", str(value)):
            errors.append(f'"language" with value "{value}" is not valid. It must be an ISO 639 code.')
    for value in listed("pipeline_tag"):  # of which the Hub itself only warns
        if value not in PIPELINE_TAGS:
            errors.append(f'The pipeline tag "{value}" is not in the official list: {", ".join(PIPELINE_TAGS)}')
    for name in ("tags", "datasets", "metrics"):
        errors += [f'"{name}" must hold strings' for value in listed(name) if not isinstance(value, str)]
    for value in (*listed("datasets"), *listed("base_model")):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(value)):
            errors.append(f'"{value}" is not valid. Use the name of a repository.')
    for i, model in enumerate(listed("model-index")):
        if lack(f"model-index[{i}]", model, "name", "results"):
            continue
        for j, result in enumerate(model["results"]):
            place = f"model-index[{i}].results[{j}]"
            if lack(place, result, "task", "dataset", "metrics"):
                continue
            lack(f"{place}.task", result["task"], "type")
            lack(f"{place}.dataset", result["dataset"], "type", "name")
            for k, metric in enumerate(result["metrics"]):
                lack(f"{place}.metrics[{k}]", metric, "type", "value")
    return errors, []
