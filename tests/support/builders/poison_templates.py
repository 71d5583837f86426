"""Chat templates that a malicious repository could use to block or fill the renderer."""

WRITES_ALL = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}\n{% endfor %}"

ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + WRITES_ALL,
    "a power": "{{ 10**(10**9) }}" + WRITES_ALL,
    "only with a system prompt": "{% if messages[0]['role'] == 'system' %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}" + WRITES_ALL,
}
"""Never end, or not in useful time; some hold the GIL."""

LARGE = {
    "gigabytes": "{{ 'a' * 4000000000 }}" + WRITES_ALL,
    "doubled again and again": "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(40) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}" + WRITES_ALL,
}
"""Need more memory than a machine has."""

WORDY = {
    "a head of 48 MB": "{% set size = 48000000 %}{{ 'a' * size }}" + WRITES_ALL,
    "a long turn": "{% set size = 40000 %}" + WRITES_ALL + "{{ '<|im_start|>' * size }}",
    "line after line": "{% for a in range(99999) %}a\n{% endfor %}" + WRITES_ALL,
}
"""Write more output than a template needs."""

CROOKED = {
    "deep": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}" + WRITES_ALL,
    "calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}" + WRITES_ALL,
    "says a lot as it fails": "{{ raise_exception('@everyone\n' * 100000) }}",
    "too long": "{# " + "x" * 300_000 + " #}" + WRITES_ALL,
    "thousands of markers": "{% for m in messages %}{{ m['content'] }}{% for a in range(3000) %}<{{ a }}>{% endfor %}"
    "{% endfor %}",
}
"""Rejected at once."""

POISON = ENDLESS | LARGE | WORDY | CROOKED

REPEATED = {
    "a control token, 1,200 times": "{% for m in messages %}{{ m['content'] }}{{ '<|im_start|>' * 1200 }}x{% endfor %}",
    "spaces": "{% for m in messages %}{{ m['content'] }}\n{{ ' ' * 12000 }}{% endfor %}",
    "rule": "{% for m in messages %}{{ m['content'] }}\n{{ '#' * 12000 }}{% endfor %}",
    "brackets": "{% for m in messages %}{{ m['content'] }}\n{{ '<' * 6000 + '[A' * 3000 }}{% endfor %}",
}
"""Unusual but within the limits: processing their text must stay fast."""
