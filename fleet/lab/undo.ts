/** What must be undone when the lab ends, in reverse order of how it came to be; registered before the next step that can fail. */
export class Undo {
  readonly #steps: { what: string; step: () => Promise<void> | void }[] = []
  #running: Promise<string[]> | null = null

  add(what: string, step: () => Promise<void> | void): void {
    this.#steps.push({ what, step })
  }

  /** Runs every step, also when some fail; answers what failed. Calling it again awaits the same run. */
  run(): Promise<string[]> {
    this.#running ??= this.#runAll()
    return this.#running
  }

  async #runAll(): Promise<string[]> {
    const failed: string[] = []
    for (const { what, step } of this.#steps.splice(0).reverse()) {
      try {
        await step()
      } catch (error) {
        failed.push(`${what}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
    return failed
  }
}
