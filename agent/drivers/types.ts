/** What every driver is given, and what the agent sees of them. */

/** pino's shape, as far as drivers use it. */
export interface DriverLog {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** One capability: its operations by name. Each checks its own input. */
export type Operations = Readonly<Record<string, (service: string, input: unknown) => Promise<unknown>>>

/** Runs tasks one after another, whatever becomes of each. */
export class Serial {
  #tail: Promise<unknown> = Promise.resolve()

  run<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#tail.then(task)
    this.#tail = done.catch(() => {})
    return done
  }
}
