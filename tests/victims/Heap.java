// SPDX-License-Identifier: LGPL-2.1-or-later
// java Heap.java DIR [THREADS]: a Java program with a busy heap, that answers as the victims in C do (see victim.h).
//
// Each thread keeps a table of byte arrays whose content follows from their number, replaces entries at random and verifies
// others, so that the garbage collector always has work; one more makes strings, sorts and hashes them. A check asks each of
// them for progress since the check before, and looks at the whole table once.
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicLong;

public class Heap {
	static final int ENTRIES = 4000;
	static volatile String problem;

	/** Content that follows from a number. */
	static byte[] body(long number) {
		byte[] bytes = new byte[(int) (200 + Math.floorMod(number, 3000))];
		new SplittableRandom(number).nextBytes(bytes);
		return bytes;
	}

	static class Table implements Runnable {
		final ConcurrentHashMap<Integer, byte[]> entries = new ConcurrentHashMap<>();
		final ConcurrentHashMap<Integer, Long> numbers = new ConcurrentHashMap<>();
		final AtomicLong done = new AtomicLong();
		final SplittableRandom random;

		Table(int seed) {
			random = new SplittableRandom(seed);
			for (int i = 0; i < ENTRIES; i++)
				put(i);
		}

		synchronized void put(int key) {
			long number = random.nextLong();
			numbers.put(key, number);
			entries.put(key, body(number));
		}

		synchronized void verify(int key) {
			if (!Arrays.equals(entries.get(key), body(numbers.get(key))))
				problem = "entry " + key + " is damaged";
		}

		public void run() {
			for (;;) {
				put(random.nextInt(ENTRIES));
				verify(random.nextInt(ENTRIES));
				done.incrementAndGet();
			}
		}
	}

	static void sort(AtomicLong done) {
		try {
			for (long n = 0;; n++) {
				List<String> words = new ArrayList<>();
				for (int i = 0; i < 2000; i++)
					words.add(Long.toHexString(i * 0x9e3779b97f4a7c15L + n));
				words.sort(null);
				MessageDigest digest = MessageDigest.getInstance("SHA-256");
				words.forEach(word -> digest.update(word.getBytes()));
				for (int i = 1; i < words.size(); i++)
					if (words.get(i - 1).compareTo(words.get(i)) > 0)
						problem = "words are out of order";
				done.incrementAndGet();
			}
		} catch (Exception e) {
			problem = e.toString();
		}
	}

	static void replace(Path directory, String name, String text) throws Exception {
		Path fresh = directory.resolve("." + name + ".java");
		Files.writeString(fresh, text);
		Files.move(fresh, directory.resolve(name), StandardCopyOption.ATOMIC_MOVE);
	}

	public static void main(String[] arguments) throws Exception {
		Path directory = Path.of(arguments[0]);
		int count = arguments.length > 1 ? Integer.parseInt(arguments[1]) : 3;
		List<Table> tables = new ArrayList<>();
		List<AtomicLong> counters = new ArrayList<>();
		for (int i = 0; i < count; i++) {
			Table table = new Table(i);
			tables.add(table);
			counters.add(table.done);
			new Thread(table, "table-" + i).start();
		}
		AtomicLong sorted = new AtomicLong();
		counters.add(sorted);
		new Thread(() -> sort(sorted), "sorter").start();
		replace(directory, "ready", ProcessHandle.current().pid() + "\n");
		String seen = "";
		for (;;) {
			Thread.sleep(2);
			String asked = Files.exists(directory.resolve("check")) ? Files.readString(directory.resolve("check")).trim() : "";
			if (asked.isEmpty() || asked.equals(seen))
				continue;
			long[] before = counters.stream().mapToLong(AtomicLong::get).toArray();
			for (Table table : tables)
				for (int i = 0; i < ENTRIES; i++)
					table.verify(i);
			long end = System.nanoTime() + 20_000_000_000L;
			for (int i = 0; i < before.length; i++)
				while (counters.get(i).get() < before[i] + 2 && problem == null) {
					if (System.nanoTime() > end)
						problem = "thread " + i + " makes no progress";
					Thread.sleep(1);
				}
			seen = asked;
			replace(directory, "result", asked + (problem == null ? " ok\n" : " FAIL " + problem + "\n"));
		}
	}
}
