/** The shared objects that programs need, as the dynamic loader of this machine finds them. */
import { realpath } from 'node:fs/promises'
import { run } from './command.ts'
import { ImageFailure } from './failure.ts'

export interface Library {
  /** Where the loader looks for it on the device. */
  readonly to: string
  /** The file on this machine. */
  readonly from: string
}

/** Where the loader looks without configuration (ld.so(8)), Debian's multi-arch directory first. */
const LIBRARY_DIR = '/lib/x86_64-linux-gnu'

/**
 * @param replacementsDir its libraries win over the system's, by the same name
 * @throws SETUP_MISSING a program needs a library that is not here
 */
export async function librariesOf(programs: readonly string[], replacementsDir: string): Promise<Library[]> {
  const libraries = new Map<string, Library>()
  for (const program of programs) {
    const output = await run('ldd', [program], { env: { LD_LIBRARY_PATH: replacementsDir } })
    for (const line of output.split('\n')) {
      const missing = /^\s*(\S+) => not found/.exec(line)?.[1]
      if (missing) throw new ImageFailure('SETUP_MISSING', `${program} needs ${missing}, which is not on this machine`)
      const found = /^\s*(?:(\S+) => )?(\/\S+) \(0x/.exec(line)
      if (!found?.[2]) continue
      // The loader itself is named by its path inside every program.
      const to = found[1] ? `${LIBRARY_DIR}/${found[1]}` : found[2]
      libraries.set(to, { to, from: await realpath(found[2]) })
    }
  }
  return [...libraries.values()].sort((one, other) => (one.to < other.to ? -1 : 1))
}
