/** The file-system operations that durable storage is built from, as an interface so that tests can fail or cut each one. */
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'

export interface FileSystem {
  /** Null when there is no such file. */
  read(path: string): Promise<Uint8Array | null>
  /** Makes a new file; fails with EEXIST when there is one. Not durable before `sync`. */
  create(path: string, bytes: Uint8Array, mode: number): Promise<void>
  /** Adds to a file, made when absent. Not durable before `sync`. */
  append(path: string, bytes: Uint8Array, mode: number): Promise<void>
  /** Makes a file's content, or a directory's entries, durable. */
  sync(path: string): Promise<void>
  /** Replaces `to`. Not durable before the directory is synced. */
  rename(from: string, to: string): Promise<void>
  /** An absent file is fine. */
  remove(path: string): Promise<void>
  /** With all it holds; absent is fine. */
  removeTree(path: string): Promise<void>
  /** Empty when there is no such directory. */
  list(path: string): Promise<{ name: string; directory: boolean }[]>
  /** With its parents, mode 0700, durably; existing is fine. */
  makeDirectory(path: string): Promise<void>
  /** 0 when there is no such file. */
  sizeBytes(path: string): Promise<number>
}

export const nodeFileSystem: FileSystem = {
  read: async (path) => await orAbsent(readFile(path), null),
  create: async (path, bytes, mode) => await withFile(path, 'wx', mode, async (file) => await file.writeFile(bytes)),
  append: async (path, bytes, mode) => await withFile(path, 'a', mode, async (file) => await file.writeFile(bytes)),
  sync: async (path) => await withFile(path, 'r', undefined, async (file) => await file.sync()),
  rename: async (from, to) => await rename(from, to),
  remove: async (path) => await rm(path, { force: true }),
  removeTree: async (path) => await rm(path, { force: true, recursive: true }),
  list: async (path) => {
    const entries = await orAbsent(readdir(path, { withFileTypes: true }), [])
    return entries.map((entry) => ({ name: entry.name, directory: entry.isDirectory() }))
  },
  makeDirectory: async (path) => {
    const first = await mkdir(path, { recursive: true, mode: 0o700 })
    if (first === undefined) return
    for (let made = path; ; made = dirname(made)) {
      await nodeFileSystem.sync(dirname(made))
      if (made === first || made === dirname(made)) return
    }
  },
  sizeBytes: async (path) => (await orAbsent(stat(path), { size: 0 })).size,
}

async function withFile(path: string, flags: string, mode: number | undefined, act: (file: Awaited<ReturnType<typeof open>>) => Promise<void>): Promise<void> {
  const file = await open(path, flags, mode)
  try {
    await act(file)
  } finally {
    await file.close()
  }
}

async function orAbsent<T, A>(result: Promise<T>, absent: A): Promise<T | A> {
  try {
    return await result
  } catch (error) {
    if ((error as { code?: unknown }).code === 'ENOENT') return absent
    throw error
  }
}
