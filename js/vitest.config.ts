import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

// Tests in a browser wait for kernels and pages more than they compute: two files at a time also where there are two cores.
const maxWorkers = Math.max(2, availableParallelism() - 1);

export default defineConfig({
  test: { testTimeout: 90_000, hookTimeout: 180_000, maxWorkers, minWorkers: 1 },
});
