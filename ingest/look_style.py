"""The style sheet of the page of `tench inspect --html`: light and dark, from a phone to a wide screen."""

STYLE = """
:root{--page:#faf9f6;--sheet:#fff;--ink:#1f2328;--soft:#646b73;--line:#e5e2dc;--accent:#0f766e;--warn:#b45309;
--shade:#f1efea}
@media(prefers-color-scheme:dark){:root{--page:#121416;--sheet:#1a1d20;--ink:#e6e4e0;--soft:#9aa1a8;--line:#2d3236;
--accent:#5ccfc1;--warn:#f0a955;--shade:#23272b}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1120px;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 .9rem}
h3{font-size:.95rem;font-weight:600;margin:0 0 .4rem}
h3 small{font-weight:400;color:var(--soft);margin-left:.6rem}
p{margin:.3rem 0}
.muted{color:var(--soft);font-size:.88rem}
.id,code{font-family:ui-monospace,monospace;font-size:.82rem}
.id{color:var(--soft);overflow-wrap:anywhere}
section{background:var(--sheet);border:1px solid var(--line);border-radius:12px;padding:1.25rem;margin-top:1.25rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin:1.5rem 0 0}
.card{background:var(--sheet);border:1px solid var(--line);border-radius:12px;padding:.8rem 1rem;display:flex;
flex-direction:column}
.card dd{margin:0;font-size:1.45rem;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums}
.card dt{color:var(--soft);font-size:.85rem}
.scroll{overflow:auto;max-height:34rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.32rem .9rem .32rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child>*{border-bottom:0}
th{font-weight:500;color:var(--soft)}
thead th{position:sticky;top:0;background:var(--sheet);font-size:.85rem}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.pairs td{overflow-wrap:anywhere}
.pairs th{white-space:nowrap;width:1%}
.bar{display:inline-block;min-width:6rem;padding:0 .4rem;border-radius:3px;
background:linear-gradient(to left,color-mix(in srgb,var(--accent) 26%,transparent) calc(var(--part)*100%),
transparent 0)}
.strip{padding:.7rem 0;border-top:1px solid var(--line)}
.strip:first-of-type{border-top:0;padding-top:0}
.tiles{display:grid;grid-template-columns:repeat(8,1fr);gap:8px}
.tiles img{width:100%;aspect-ratio:1;border-radius:6px;display:block;background:var(--shade)}
figure{margin:0}
figcaption{color:var(--soft);font-size:.85rem;margin-top:.35rem}
.statistics{display:grid;grid-template-columns:minmax(160px,256px) 1fr;gap:1.75rem}
.statistics>figure img{width:100%;border-radius:8px;display:block}
.swatch,.axes img{height:34px;width:100%;border-radius:6px;display:block}
.axes{display:grid;gap:.8rem;margin:.8rem 0}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:1rem}
.bad{border:1px solid var(--line);border-radius:10px;overflow:hidden;background:var(--page)}
.bad img,.blank{width:100%;height:150px;display:block;background:var(--shade)}
.bad img{object-fit:contain}
.blank{display:grid;place-items:center;color:var(--soft);font-size:.9rem;
background:repeating-linear-gradient(45deg,var(--shade) 0 10px,transparent 10px 20px)}
.bad figcaption{display:grid;gap:.25rem;padding:.6rem .75rem .8rem;margin:0;justify-items:start;
overflow-wrap:anywhere}
.bad strong{color:var(--ink);font-weight:600}
.code{color:var(--warn);border:1px solid currentColor;border-radius:99px;padding:0 .5rem;font-size:.78rem;
white-space:nowrap}
@media(max-width:640px){main{padding:1.25rem .75rem 3rem}section{padding:1rem .85rem}
.statistics{grid-template-columns:1fr}.pairs th{white-space:normal;width:35%}
.tiles{grid-template-columns:repeat(4,1fr);gap:5px}.number{white-space:normal}.bar{min-width:3.5rem}
.gallery{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}}
"""
