"""The HTML of a comparison's page."""

TEMPLATE = """{% set recipes = rows | rejectattr("baseline") | list %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vqmm compare: {{ result.modality }}, {{ recipes | map(attribute="name") | join(", ") }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2126; --soft: #626a73; --line: #dfe2e6; --paper: #fff; --wash: #f5f6f8;
  --wrong: #b3372b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #99a1aa; --line: #343a41; --paper: #15181b; --wash: #1d2125; --wrong: #f08a7d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 40px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 16px; margin: 44px 0 12px; }
p { margin: 0 0 8px; max-width: 72ch; }
.soft, .spread, th, dd { color: var(--soft); }
.wrong { color: var(--wrong); overflow-wrap: anywhere; }
.box { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 14px; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { font-size: 12px; font-weight: 500; vertical-align: bottom; line-height: 1.3; white-space: normal; }
thead th + th { min-width: 86px; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
tbody th { font-weight: 600; color: var(--ink); }
tbody td, tbody th { border-top: 1px solid var(--line); }
td.wrong { text-align: left; white-space: normal; min-width: 260px; }
.best { font-weight: 700; }
.spread { display: block; font-size: 12px; font-weight: 400; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px; }
.note { margin-top: 10px; }
.plot svg { display: block; width: 100%; max-width: 600px; height: auto; }
.plot text { font-family: inherit; }
.rows { display: flex; align-items: stretch; padding: 14px; gap: 14px; width: max-content; }
.names { display: flex; flex-direction: column; font-size: 13px; position: sticky; left: 0; padding: 0 10px 0 14px;
  margin-left: -14px; background: var(--paper); }
.names span { flex: 1; display: flex; align-items: center; white-space: nowrap; }
.rows img { display: block; height: auto; width: 840px; image-rendering: pixelated; border-radius: 3px; }
.fragment { padding: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px; margin: 0; font-size: 14px; }
dt { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 13px; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  body { padding: 24px 16px 48px; }
  th, td { padding: 8px 10px; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 10px; }
  .rows img { width: 560px; }
}
</style>
</head>
<body>
<h1>{{ recipes | length }} {{ result.modality }} {{ result.what | default('recipes') }} compared</h1>
<p class="soft">{{ budget }}, {{ "seeds" if several else "seed" }} {{ result.seeds | join(", ") }}.
{% if result.count %}
Evaluated on {{ "{:,}".format(result.count) }} samples of {{ result.data }}: {{ result.split }}, {{ result.view }}.
{% endif %}
</p>
{% for row in rows if row.error %}
<p class="wrong"><b>{{ row.name }} failed.</b> {{ row.error }}</p>
{% endfor %}

<h2>Figures</h2>
<div class="box" tabindex="0" role="region" aria-label="Figures">
<table>
<thead>
<tr>
<th scope="col">recipe</th>
{% for name, rule in result.rules.items() %}
<th scope="col" title="{{ rule }}">{{ name | replace("_", " ") }}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for row in rows %}
<tr>
<th scope="row"><span class="dot" style="background: {{ row.colour }}"></span>{{ row.name }}</th>
{% for cell in row.cells %}
<td{% if cell.best %} class="best"{% endif %}>{{ cell.value }}
{%- if cell.spread %}<span class="spread">{{ cell.spread }}</span>{% endif %}</td>
{% else %}
<td class="wrong" colspan="{{ result.rules | length or 1 }}">no finished run</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="soft note">Bold: the best {{ "recipe " if recipes | length < rows | length }}of a column.
{% if several %}
Means over the seeds; below each, the lowest to the highest.
{% else %}
One seed: small differences may be chance.
{% endif %}
{% if recipes | length < rows | length %}
A gray dot: a baseline, which has no network.
{% endif %}
</p>

{% if plot %}
<h2>Rate and distortion</h2>
<div class="plot">{{ plot | safe }}</div>
<p class="soft note">
{% if has_line %}
A dashed line is a recipe without codes, which has no rate.
{% endif %}
{% if has_baseline %}
In gray: baselines, which have no network; a dotted line joins one at several rates.
{% endif %}
{% if several %}
Bars: the lowest to the highest over the seeds.
{% endif %}
</p>
{% endif %}

{% if samples %}
<h2>Reconstructions</h2>
<div class="box" tabindex="0" role="region" aria-label="Reconstructions">
{% if samples.picture %}
<div class="rows">
<div class="names">{% for name in samples.names %}<span>{{ name }}</span>{% endfor %}</div>
<img src="{{ samples.picture }}" width="{{ samples.width }}" height="{{ samples.height }}"
alt="Held-out samples, a row each: {{ samples.names | join(", ") }}">
</div>
{% else %}
<div class="fragment">
<p class="soft">Rows: {{ samples.names | join(", ") }}</p>
{{ samples.html | safe }}
</div>
{% endif %}
</div>
{% endif %}

<h2>How each figure came about</h2>
<dl>
{% for name, told in notes %}
<dt>{{ name }}</dt><dd>{{ told }}</dd>
{% endfor %}
</dl>
</body>
</html>
"""
