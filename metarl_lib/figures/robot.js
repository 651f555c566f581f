{
    view: "0 0 680 230",
    actions: data.actuators,
    heading: "torques",
    jump: "25 steps on",
    pause: 50,
    next: (now) => (now + 25 > last ? 0 : now + 25),
    does: (step) => `sets the torques ${step.action.map((a) => a.toFixed(2)).join(", ")}`,
    colour: (reward) => reward > 0 ? "#0072b2" : "#d55e00",
    sign: () => "",
    bar: (step, i) => ({ from: 0.5, to: 0.5 + step.action[i] / 2, says: "" }),
    // Ends of limbs are in centimetres, to the right and up, from a place that moves with the robot.
    scene(step) {
      const x = (right) => 340 + right, y = (up) => 115 - up, [east, north] = step.at;
      const grey = (a, b, c, d, shade) => `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}" stroke="${shade}"/>`;
      let out = "";
      for (let k = Math.ceil((east - 340) / 50); 50 * k < east + 340; k++)
        out += grey(x(50 * k - east), 0, x(50 * k - east), 230, "#ddd");
      if (data.above)
        for (let k = Math.ceil((north - 200) / 50); 50 * k < north + 200; k++) {
          const up = data.tilt * (50 * k - north);
          out += grey(0, y(up), 680, y(up), "#ddd");
        }
      else out += grey(0, y(-north), 680, y(-north), "#777");
      step.limbs.forEach(([a, b, c, d], i) => {
        const wide = 2 * data.radii[i], line = `x1="${x(a)}" y1="${y(b)}" x2="${x(c)}" y2="${y(d)}" stroke-linecap="round"`;
        out += `<line ${line} stroke="#003c64" stroke-width="${wide}"/><line ${line} stroke="#0072b2" stroke-width="${Math.max(1, wide - 3)}"/>`;
      });
      if (data.goal) {
        const [right, up] = [data.goal[0], data.tilt * data.goal[1]];
        out += `<line x1="${x(60 * right)}" y1="${y(60 * up)}" x2="${x(105 * right)}" y2="${y(105 * up)}" stroke="#e69f00" stroke-width="5"/>`;
        out += `<circle cx="${x(105 * right)}" cy="${y(105 * up)}" r="8" fill="#e69f00"/>`;
      }
      return out;
    },
    words: (step) => `The robot is ${(step.at[0] / 100).toFixed(1)} m to the right of the start` +
      (data.above ? ` and ${(step.at[1] / 100).toFixed(1)} m ahead of it. ` : ". ") +
      `Its velocity along the goal is ${step.velocity.toFixed(2)} m/s.`,
  }
