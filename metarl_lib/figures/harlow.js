{
    view: "0 0 680 100",
    actions: ["← left", "right →"],
    does: (step) => `steps to the ${step.action ? "right" : "left"}, with probability ${step.policy[step.action].toFixed(2)}`,
    next: (now) => rewarded(now, (reward) => Math.abs(reward) > 0.5),
    heading: "next action",
    jump: "next reward",
    pause: 400,
    bar: probability,
    colour: (reward) => reward > 0.5 ? "#0072b2" : reward < -0.5 ? "#d55e00" : reward > 0 ? "#56b4e9" : "#8a8a8a",
    sign: (reward) => reward > 0.5 ? "+1" : reward < -0.5 ? "−1" : reward > 0 ? "•" : "",
    scene(step) {
      const at = (cell) => 8 + 39 * (cell + 8.5), seen = (cell) => {
        const far = Math.abs(cell - step.position);
        return Math.min(far, 17 - far) <= 4;
      };
      let out = "";
      for (let cell = -8; cell <= 8; cell++)
        out += `<rect x="${at(cell) - 18}" y="24" width="36" height="36" fill="${seen(cell) ? "#fff" : "#d4d4d4"}" stroke="#777"/>`;
      for (const thing of step.things) {
        const x = at(thing.cell);
        if (thing.gain === null) out += text(x, 49, "✚", 'style="font-size:22px"') + text(x, 15, "mark");
        else out += text(x, 46, thing.value.toFixed(3)) + text(x, 15, thing.gain > 0 ? "pays +1" : "pays −1");
      }
      const x = at(step.position);
      return out + `<path d="M${x} 63 l10 12 h-20 z" fill="#222"/>` + text(x, 93, "agent");
    },
    words(step) {
      const side = (cell) => {
        let away = cell - step.position;
        if (away > 8) away -= 17;
        if (away < -8) away += 17;
        return Math.abs(away) > 4 ? "out of sight" : `${Math.abs(away)} to the ${away < 0 ? "left" : "right"}`;
      };
      const there = step.things.map((x) => (x.gain === null ? "the fixation mark " : `object ${x.value.toFixed(3)} (${x.gain > 0 ? "good" : "bad"}) `) + side(x.cell));
      return `Presentation ${step.presentation}. There: ${there.join(", ")}.`;
    },
  }
