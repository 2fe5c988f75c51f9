// The report of `profile` as one page: data, style and drawing in a single file that works without a network. The drawings
// are SVG made by the script below, so that nothing has to be fetched or bundled.
#include <string>

#include "calibrate/profile.h"

namespace mixwright::calibrate {
namespace {

constexpr const char* head = R"page(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Routing profile</title>
<style>
:root{color-scheme:light dark;--bg:#fbfbf9;--panel:#fff;--ink:#1d2126;--soft:#666d76;--line:#dfe1e4;--low:#f1f4f8;--high:#0b4f9e;--accent:#c8501e;--warn:#a32020}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--panel:#1c2024;--ink:#e6e8ea;--soft:#98a0a9;--line:#343a41;--low:#20262d;--high:#7db8ff;--accent:#ff9a62;--warn:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:24px;margin:0 0 2px}h2{font-size:17px;margin:0 0 4px}
p{margin:0 0 12px;color:var(--soft)}section{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin-top:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin-top:16px}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:12px 14px}.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}.controls{display:flex;gap:14px;flex-wrap:wrap;margin-bottom:10px;font-size:14px}
select{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:6px;padding:3px 6px;max-width:320px}
svg{display:block;max-width:100%;height:auto}svg text{fill:var(--soft);font:11px system-ui,sans-serif}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:18px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}th,td{text-align:right;padding:4px 8px;border-bottom:1px solid var(--line)}
th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left}.scroll{overflow-x:auto}.bad{color:var(--warn)}
#tip{position:fixed;pointer-events:none;background:var(--ink);color:var(--bg);padding:4px 8px;border-radius:6px;font-size:13px;display:none;max-width:320px;z-index:2}
</style></head><body><main>
<h1 id="title"></h1><p id="under"></p><div class="tiles" id="tiles"></div>
<section><h2>Where tokens go</h2><p>A row a layer, a column an expert. With perfect balance every cell has the same shade.</p>
<div class="controls"><label>text <select id="file"></select></label><label>show <select id="what"><option value="counts">share of tokens</option><option value="gate_mass">gate mass</option><option value="output_norm">mean size of g&thinsp;y</option></select></label></div><div class="scroll" id="heat"></div></section>
<section><h2>Load and certainty</h2><p>Busiest expert over the mean, spread of the load, experts no token went to, and the entropy of the router's softmax.</p><div class="scroll" id="load"></div></section>
<section><h2>Which experts fire together</h2><p>Lift: 1 where experts ignore each other, more where they come together. Outlined, and drawn thick on the right: the pairs of a maximum-weight matching.</p>
<div class="controls"><label>layer <select id="layer"></select></label><label>matrix <select id="matrix"><option value="lift">lift of co-activation</option><option value="together">tokens routed to both</option><option value="similarity">similarity of outputs</option></select></label></div>
<div class="pair"><div id="square"></div><div id="ring"></div></div></section>
<section><h2>What sharing could gain, and redundancy</h2><p>p: probability that an expert's partner is active too. Bound: reading the rows that two active partners share once, 1 / (1 - s p / 3). Shared mean: energy of the mean expert over that of an expert (1/E when unrelated). rank90: share of directions that hold 90 % of the experts' weights.</p><div class="scroll" id="gain"></div></section>
<section><h2>How few neurons do the work</h2><p>Share of the experts' output energy held by their most important neurons; a line a layer, later layers in the accent colour. The straighter, the less can be dropped.</p><div id="curves"></div></section>
</main><div id="tip"></div>
<script id="data" type="application/json">)page";

constexpr const char* tail = R"page(</script>
<script>
const D=JSON.parse(document.getElementById('data').textContent),$=id=>document.getElementById(id),L=D.layers,E=L.length?L[0].counts[0].length:0;
const esc=s=>String(s).replace(/[&<>"]/g,c=>({'&':'&amp;','<':'&lt;','>':'&gt;','"':'&quot;'}[c]));
const n=(x,d=2)=>x===null||x===undefined?'-':Number(x).toLocaleString('en',{maximumFractionDigits:d,minimumFractionDigits:0}),pc=x=>n(100*x,1)+' %';
const shade=t=>`color-mix(in oklab,var(--high) ${Math.round(100*Math.max(0,Math.min(1,t)))}%,var(--low))`;
const svg=(w,h,body)=>`<svg viewBox="0 0 ${w} ${h}" width="${w}" role="img">${body}</svg>`;
document.title=D.model+': routing profile';$('title').textContent=D.model;
$('under').textContent=`Routing of ${n(D.tokens,0)} tokens of ${D.files.length} text${D.files.length>1?'s':''} through ${L.length} MoE layers of ${E} experts`;
const silent=L.reduce((s,l)=>s+l.silent_experts,0);
$('tiles').innerHTML=[[pc(D.expert_share),'of the active parameters are in experts'],[pc(D.matched_partner_p),'p, partners active together (matching)'],['x '+n(D.speed_bound,3),'bound of sharing rows, batch of one'],[n(silent,0),'experts no token went to']].map(t=>`<div class="tile"><b>${t[0]}</b><span>${t[1]}</span></div>`).join('');
const tip=$('tip');document.addEventListener('mousemove',e=>{const t=e.target.closest&&e.target.closest('[data-t]');if(!t){tip.style.display='none';return}tip.textContent=t.dataset.t;tip.style.display='block';tip.style.left=Math.min(e.clientX+12,innerWidth-tip.offsetWidth-8)+'px';tip.style.top=(e.clientY+14)+'px'});
$('file').innerHTML=(D.files.length>1?'<option value="-1">all texts</option>':'')+D.files.map((f,i)=>`<option value="${i}">${esc(f.name)} (${n(f.tokens,0)})</option>`).join('');
$('layer').innerHTML=L.map((l,i)=>`<option value="${i}">${l.label}</option>`).join('');
function rowOf(l,what,file){const rows=l[what];if(file>=0)return rows[file];if(what==='output_norm'){return rows[0].map((_,e)=>{let a=0,b=0;rows.forEach((r,s)=>{a+=r[e]*l.counts[s][e];b+=l.counts[s][e]});return b?a/b:0})}return rows[0].map((_,e)=>rows.reduce((s,r)=>s+r[e],0))}
function heat(){const file=+$('file').value,what=$('what').value,cw=Math.max(8,Math.min(34,960/E)),ch=Math.max(12,Math.min(26,520/L.length));let b='';
L.forEach((l,y)=>{const r=rowOf(l,what,file),sum=r.reduce((a,x)=>a+x,0)||1,max=Math.max(...r)||1,mean=sum/E;b+=`<text x="30" y="${y*ch+ch/2+4}" text-anchor="end">${l.label}</text>`;
r.forEach((v,e)=>{b+=`<rect x="${36+e*cw}" y="${y*ch}" width="${cw-1}" height="${ch-1}" rx="2" fill="${shade(what==='output_norm'?v/max:v/mean/3)}" data-t="layer ${l.label}, expert ${e}: ${what==='output_norm'?n(v,4):pc(v/sum)+' of '+(what==='counts'?'the assignments':'the gate mass')}"/>`})});
const step=Math.ceil(E/24);for(let e=0;e<E;e+=step)b+=`<text x="${36+e*cw+cw/2}" y="${L.length*ch+13}" text-anchor="middle">${e}</text>`;$('heat').innerHTML=svg(40+E*cw,L.length*ch+18,b)}
const table=(heads,rows)=>'<table><tr>'+heads.map(h=>`<th>${h}</th>`).join('')+'</tr>'+rows.map(r=>'<tr>'+r.map(c=>`<td>${c}</td>`).join('')+'</tr>').join('')+'</table>';
$('load').innerHTML=table(['layer','busiest / mean','spread','silent',...D.files.map(f=>'entropy, '+esc(f.name))],L.map(l=>[l.label,n(l.load_max_over_mean),n(l.load_variation),l.silent_experts?`<span class="bad">${l.silent_experts}</span>`:0,...l.entropy.map(x=>n(x,3))]));
$('gain').innerHTML=table(['layer','p, matching','p, best partner','bound','shared mean','rank90'],L.map(l=>[l.label,pc(l.matched_partner_p),pc(l.best_partner_p),'x '+n(l.speed_bound,3),pc(l.shared_mean_energy),pc(l.rank90_share)]));
function pairs(){const l=L[+$('layer').value],what=$('matrix').value,m=l[what],cw=420/E,flat=[];m.forEach((r,i)=>r.forEach((v,j)=>{if(i!==j)flat.push(v)}));const hi=Math.max(...flat.slice().sort((a,b)=>b-a).slice(0,Math.max(1,flat.length>>6)).slice(-1),1e-9),lo=Math.min(0,...flat);let b='';
m.forEach((r,i)=>r.forEach((v,j)=>{if(i!==j)b+=`<rect x="${22+j*cw}" y="${i*cw}" width="${Math.max(cw-.6,.6)}" height="${Math.max(cw-.6,.6)}" fill="${shade((v-lo)/(hi-lo))}" data-t="experts ${i} and ${j}: ${n(v,3)}"/>`}));
l.matching.filter(p=>p.length===2).forEach(([i,j])=>[[i,j],[j,i]].forEach(([a,c])=>{b+=`<rect x="${22+c*cw}" y="${a*cw}" width="${cw}" height="${cw}" fill="none" stroke="var(--accent)" stroke-width="1.6" pointer-events="none"/>`}));
const step=Math.ceil(E/16);for(let e=0;e<E;e+=step)b+=`<text x="18" y="${e*cw+cw/2+4}" text-anchor="end">${e}</text>`;$('square').innerHTML=svg(446,424,b);
const R=165,cx=210,cy=210,at=e=>{const a=2*Math.PI*e/E-Math.PI/2;return[cx+R*Math.cos(a),cy+R*Math.sin(a)]},edges=[];for(let i=0;i<E;i++)for(let j=i+1;j<E;j++)edges.push([l.lift[i][j],i,j]);edges.sort((x,y)=>y[0]-x[0]);let g='';
const line=(i,j,s,w,o)=>{const[x,y]=at(i),[u,v]=at(j);return`<path d="M${x} ${y}Q${cx} ${cy} ${u} ${v}" fill="none" stroke="${s}" stroke-width="${w}" opacity="${o}" data-t="experts ${i} and ${j}: lift ${n(l.lift[i][j])}, ${n(l.together[i][j],0)} tokens together"/>`};
edges.slice(0,Math.min(edges.length,3*E)).reverse().forEach(([v,i,j])=>{g+=line(i,j,'var(--high)',1,.12+.5*Math.min(1,v/edges[0][0]))});l.matching.filter(p=>p.length===2).forEach(([i,j])=>{g+=line(i,j,'var(--accent)',2.6,.95)});
const load=rowOf(l,'counts',-1),top=Math.max(...load)||1;for(let e=0;e<E;e++){const[x,y]=at(e);g+=`<circle cx="${x}" cy="${y}" r="${2+(E>40?3:7)*Math.sqrt(load[e]/top)}" fill="var(--high)" data-t="expert ${e}: ${n(load[e],0)} tokens"/>`;if(E<=48){const a=2*Math.PI*e/E-Math.PI/2;g+=`<text x="${cx+(R+20)*Math.cos(a)}" y="${cy+(R+20)*Math.sin(a)+4}" text-anchor="middle">${e}</text>`}}$('ring').innerHTML=svg(420,420,g)}
(function(){const W=720,H=300,x0=44,y0=10,w=W-60,h=H-44;let b='';for(let i=0;i<=4;i++){const y=y0+h*(1-i/4),x=x0+w*i/4;b+=`<line x1="${x0}" x2="${x0+w}" y1="${y}" y2="${y}" stroke="var(--line)"/><text x="${x0-6}" y="${y+4}" text-anchor="end">${25*i} %</text><text x="${x}" y="${y0+h+18}" text-anchor="middle">${25*i} %</text>`}
L.forEach((l,k)=>{const t=L.length>1?k/(L.length-1):0,p=l.curve.map((v,i)=>`${i?'L':'M'}${x0+w*i/(l.curve.length-1)} ${y0+h*(1-v)}`).join('');b+=`<path d="${p}" fill="none" stroke="color-mix(in oklab,var(--accent) ${Math.round(100*t)}%,var(--high))" stroke-width="2" data-t="layer ${l.label}: half of the neurons hold ${pc(l.curve[(l.curve.length-1)/2])}"/>`});b+=`<text x="${x0+w/2}" y="${H-2}" text-anchor="middle">neurons, most important first</text>`;$('curves').innerHTML=svg(W,H,b)})();
['file','what'].forEach(i=>$(i).addEventListener('change',heat));['layer','matrix'].forEach(i=>$(i).addEventListener('change',pairs));heat();pairs();
</script></body></html>
)page";

}  // namespace

std::string profile_page(const Profile& profile, std::string_view model_name) {
    io::Json data = profile_json(profile, true);
    data["model"] = model_name;
    // A file name must not be able to close the script element.
    std::string json = data.dump(-1, ' ', false, io::Json::error_handler_t::replace), safe;
    for (const char c : json) safe += c == '<' ? std::string("\\u003c") : std::string(1, c);
    return head + safe + tail;
}

}  // namespace mixwright::calibrate
