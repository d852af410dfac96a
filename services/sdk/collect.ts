/**
 * Collects all garbage of this thread and gives the memory back to the system. Taken before the sandbox hides it. Undefined where Node was
 * started without --expose-gc.
 */
export function takeCollector(): (() => void) | undefined {
  const { gc } = globalThis
  return gc && (() => void gc({ type: 'major', execution: 'sync', flavor: 'last-resort' }))
}
