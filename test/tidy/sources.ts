/** The project's own source files, for the tests that read them. */
import { readdirSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'

export const root = join(import.meta.dirname, '../..')

/** Paths from the root of every .ts and .mjs file that we wrote. */
export function sources(folder = root): string[] {
  return readdirSync(folder).flatMap((name) => {
    if (name.startsWith('.') || ['node_modules', 'dist', 'gen'].includes(name)) return []
    const path = join(folder, name)
    if (statSync(path).isDirectory()) return sources(path)
    return /\.(ts|mjs)$/.test(name) ? [relative(root, path)] : []
  })
}

/** Names of the services: every folder of services/ but the SDK. */
export function services(): string[] {
  return readdirSync(join(root, 'services')).filter((name) => name !== 'sdk')
}
