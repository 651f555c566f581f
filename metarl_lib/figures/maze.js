{
    view: `0 0 680 ${32 * data.size + 84}`,
    actions: ["up", "down", "left", "right"],
    does: (step) => `steps ${["up", "down", "to the left", "to the right"][step.action]}, with probability ${step.policy[step.action].toFixed(2)}`,
    next: (now) => rewarded(now, (reward) => reward > 0),
    heading: "next action",
    jump: "next reward",
    pause: 400,
    bar: probability,
    colour: (reward) => reward > 0 ? "#0072b2" : "#8a8a8a",
    sign: (reward) => reward > 0 ? "•" : "",
    place: (cell) => [Math.floor(cell / data.size), cell % data.size],
    scene(step, t) {
      const side = 32, left = 340 - side * (data.size / 2 + 1), [row, column] = this.place(step.cell);
      const x = (c) => left + side * (c + 1.5), y = (r) => 10 + side * (r + 1.5);
      let out = "";
      for (let r = -1; r <= data.size; r++)
        for (let c = -1; c <= data.size; c++) {
          const inside = r >= 0 && c >= 0 && r < data.size && c < data.size;
          const open = inside && data.open[r * data.size + c] === "1";
          const seen = Math.abs(r - row) <= 1 && Math.abs(c - column) <= 1;
          out += `<rect x="${x(c) - side / 2}" y="${y(r) - side / 2}" width="${side}" height="${side}" fill="${open ? (seen ? "#d6e6f4" : "#fff") : "#333"}" stroke="#ccc"/>`;
        }
      const [tr, tc] = this.place(data.target);
      out += `<rect x="${x(tc) - 11}" y="${y(tr) - 11}" width="22" height="22" fill="#e69f00"/>`;
      let start = t;
      while (start > 0 && !steps[start].reward) start--;
      const way = steps.slice(start, t + 1).map(({ cell }) => { const [r, c] = this.place(cell); return `${x(c)},${y(r)}`; });
      out += `<polyline points="${way.join(" ")}" fill="none" stroke="#0072b2" stroke-width="3" stroke-linejoin="round"/>`;
      return out + `<circle cx="${x(column)}" cy="${y(row)}" r="11" fill="#0072b2"/>`;
    },
    words(step) {
      const [row, column] = this.place(step.cell), [tr, tc] = this.place(data.target);
      const away = (n, one, other) => n ? `${Math.abs(n)} ${n > 0 ? one : other}` : "";
      const where = [away(tr - row, "down", "up"), away(tc - column, "to the right", "to the left")].filter(Boolean).join(" and ");
      return `The agent stands in row ${row + 1}, column ${column + 1}; the target is ${where}.`;
    },
  }
