// What differs by kind of job: {cards, event(event), update(job, progress), destroy()}.

import { ingestCards } from "./ingest_cards.js";
import { trainCards } from "./training_cards.js";

export function kindCards(view) {
  const make = { train: trainCards, ingest: ingestCards }[view.job.kind];
  return make ? make(view) : { cards: [], event() {}, update() {}, destroy() {} };
}
