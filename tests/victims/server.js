// SPDX-License-Identifier: LGPL-2.1-or-later
// node server.js DIR: a Node.js program that answers as the victims in C do (see victim.h). It serves HTTP on a UNIX socket of
// its own and keeps asking itself, hashes and compresses on libuv's thread pool, has a worker thread that computes, a child
// over a pipe that echoes, timers, and a heap of maps and typed arrays that it changes and verifies.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const http = require("http");
const path = require("path");
const zlib = require("zlib");
const { spawn } = require("child_process");
const { Worker, isMainThread, parentPort } = require("worker_threads");

function body(number, size) {
	return crypto.createHash("shake256", { outputLength: size }).update(String(number)).digest();
}

if (!isMainThread) {
	parentPort.on("message", ([number, left, right]) => {
		const product = new Float64Array(left.length);
		for (let i = 0; i < left.length; i++)
			product[i] = left[i] * right[right.length - 1 - i];
		parentPort.postMessage([number, product]);
	});
} else {
	const directory = process.argv[2];
	const socket = path.join(directory, "http");
	const done = { request: 0, pool: 0, worker: 0, child: 0, heap: 0, timer: 0 };
	let problem = null;
	const expect = (condition, what) => {
		if (!condition && !problem)
			problem = what;
	};

	const server = http.createServer((request, response) => {
		response.end(body(request.url.slice(1), 20000));
	});
	const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
	const ask = (number) => {
		http.get({ socketPath: socket, path: "/" + number, agent }, (response) => {
			const parts = [];
			response.on("data", (part) => parts.push(part));
			response.on("end", () => {
				expect(Buffer.concat(parts).equals(body(number, 20000)), "a response is damaged");
				done.request++;
				setImmediate(ask, number + 4);
			});
		}).on("error", (error) => expect(false, "request: " + error.message));
	};

	const pool = (number) => {
		const data = body(number, 50000);
		zlib.deflate(data, (error, packed) => {
			zlib.inflate(packed, (again, unpacked) => {
				expect(!error && !again && data.equals(unpacked), "inflating gives something else");
				done.pool++;
				setImmediate(pool, number + 1);
			});
		});
	};

	const worker = new Worker(__filename);
	const compute = (number) => {
		const left = new Float64Array(5000).map((_, i) => i + number), right = left.map((value) => value / 2);
		worker.removeAllListeners("message");
		worker.on("message", ([answer, product]) => {
			expect(answer === number && product[7] === left[7] * right[right.length - 8], "the worker computes wrong");
			done.worker++;
			compute(number + 1);
		});
		worker.postMessage([number, left, right]);
	};

	const child = spawn("/bin/cat", [], { stdio: ["pipe", "pipe", "inherit"] });
	let pending = Buffer.alloc(0), lines = 0;
	child.stdout.on("data", (part) => {
		pending = Buffer.concat([pending, part]);
		for (let end; (end = pending.indexOf(10)) >= 0; pending = pending.subarray(end + 1)) {
			expect(pending.subarray(0, end).toString() === "line " + lines, "the child's lines are out of order");
			lines++;
			done.child++;
			setImmediate(() => child.stdin.write("line " + lines + "\n"));
		}
	});
	child.on("exit", () => expect(false, "the child has ended"));

	const heap = new Map();
	const change = () => {
		const key = Math.floor(Math.random() * 2000), number = Math.floor(Math.random() * 1e9);
		const old = heap.get(key);
		if (old)
			expect(old.bytes.equals(body(old.number, 300)), "an entry of the heap is damaged");
		heap.set(key, { number, bytes: body(number, 300) });
		done.heap++;
		setImmediate(change);
	};

	setInterval(() => done.timer++, 5);
	let seen = "";
	const poll = () => {
		let asked = "";
		try {
			asked = fs.readFileSync(path.join(directory, "check"), "utf8").trim();
		} catch (error) {
			asked = "";
		}
		if (!asked || asked === seen)
			return setTimeout(poll, 2);
		seen = asked;
		const before = { ...done }, end = Date.now() + 20000;
		for (const entry of heap.values())
			expect(entry.bytes.equals(body(entry.number, 300)), "an entry of the heap is damaged");
		const wait = () => {
			const idle = Object.keys(done).filter((name) => done[name] < before[name] + 3);
			if (idle.length && !problem && Date.now() < end)
				return setTimeout(wait, 1);
			expect(!idle.length, "no progress: " + idle.join(" "));
			fs.writeFileSync(path.join(directory, ".result.js"), asked + (problem ? " FAIL " + problem : " ok") + "\n");
			fs.renameSync(path.join(directory, ".result.js"), path.join(directory, "result"));
			poll();
		};
		wait();
	};
	server.listen(socket, () => {
		for (let i = 0; i < 4; i++)
			ask(i);
		pool(0);
		compute(0);
		child.stdin.write("line 0\n");
		change();
		poll();
		fs.writeFileSync(path.join(directory, "ready"), process.pid + "\n");
	});
}
