/**
 * A file system in memory that can fail or be cut at any operation, and then be found as after a killed process (everything
 * written is there) or after a power cut (only what was synced is; the rest is torn or gone).
 */
import { dirname } from 'node:path'
import type { FileSystem } from '../../agent/store/file-system.ts'

interface Inode {
  data: Uint8Array
  synced: Uint8Array
}

/** Thrown by every operation from the cut on: the process is no more. */
export class Cut extends Error {}

export class FakeFileSystem implements FileSystem {
  #live = new Map<string, Inode>()
  #durable = new Map<string, Inode>()
  #directories = new Set<string>(['/'])
  /** Operations that change something, so far. */
  operations = 0
  /** Called before each of them with its number and name; may throw. */
  before: (operation: number, name: string, path: string) => void = () => {}

  /** Cuts at operation `at` (1 is the next): that one is half done, and nothing works from there on. */
  cutAt(at: number): void {
    const first = this.operations + at
    this.before = (operation) => {
      if (operation >= first) throw new Cut(`cut at operation ${operation}`)
    }
  }

  /** The system as the next process finds it. */
  restarted(after: 'kill' | 'power'): FakeFileSystem {
    const next = new FakeFileSystem()
    next.#directories = new Set(this.#directories)
    for (const [path, inode] of after === 'kill' ? this.#live : this.#durable) {
      const data = after === 'kill' ? inode.data : inode.synced
      const copy = { data, synced: data }
      next.#live.set(path, copy)
      next.#durable.set(path, copy)
    }
    return next
  }

  paths(): string[] {
    return [...this.#live.keys()].sort()
  }

  /** Damages a file's content behind everyone's back. */
  rot(path: string, at = -1): void {
    const inode = this.#inode(path)
    const data = new Uint8Array(inode.data)
    const index = at < 0 ? data.length + at : at
    data[index] = (data[index] ?? 0) ^ 1
    inode.data = data
    inode.synced = data
  }

  async read(path: string): Promise<Uint8Array | null> {
    await turn()
    this.before(this.operations, 'read', path)
    return this.#live.get(path)?.data ?? null
  }

  async create(path: string, bytes: Uint8Array): Promise<void> {
    if (this.#live.has(path)) throw failure('EEXIST')
    const inode = { data: bytes.slice(0, bytes.length / 2), synced: bytes.slice(0, bytes.length / 3) }
    await this.#act('create', path, () => this.#live.set(path, inode))
    inode.data = bytes.slice()
  }

  async append(path: string, bytes: Uint8Array): Promise<void> {
    const inode = this.#live.get(path) ?? { data: new Uint8Array(), synced: new Uint8Array() }
    const before = inode.data
    await this.#act('append', path, () => {
      this.#live.set(path, inode)
      inode.data = Buffer.concat([before, bytes.subarray(0, bytes.length / 2)])
    })
    inode.data = Buffer.concat([before, bytes])
  }

  async sync(path: string): Promise<void> {
    await this.#act('sync', path, () => {})
    const inode = this.#live.get(path)
    if (inode) inode.synced = inode.data
    else if (!this.#directories.has(path)) throw failure('ENOENT')
    for (const name of this.#durable.keys()) if (dirname(name) === path && !this.#live.has(name)) this.#durable.delete(name)
    for (const [name, found] of this.#live) if (dirname(name) === path) this.#durable.set(name, found)
  }

  async rename(from: string, to: string): Promise<void> {
    const inode = this.#inode(from)
    // Atomic: a cut comes before it or after it.
    await this.#act('rename', from, () => {})
    this.#live.delete(from)
    this.#live.set(to, inode)
  }

  async remove(path: string): Promise<void> {
    await this.#act('remove', path, () => {})
    this.#live.delete(path)
  }

  async removeTree(path: string): Promise<void> {
    const below = [...this.#live.keys()].filter((name) => name.startsWith(`${path}/`))
    // A cut leaves part of the tree.
    await this.#act('removeTree', path, () => below.slice(0, below.length / 2).forEach((name) => void this.#live.delete(name)))
    for (const name of below) this.#live.delete(name)
    for (const name of [...this.#durable.keys()]) if (name.startsWith(`${path}/`)) this.#durable.delete(name)
    for (const name of [...this.#directories]) if (name === path || name.startsWith(`${path}/`)) this.#directories.delete(name)
  }

  async list(path: string): Promise<{ name: string; directory: boolean }[]> {
    await turn()
    const names = new Map<string, boolean>()
    const prefix = path === '/' ? '/' : `${path}/`
    for (const [known, directory] of [
      ...[...this.#directories].map((name) => [name, true] as const),
      ...[...this.#live.keys()].map((name) => [name, false] as const),
    ]) {
      if (!known.startsWith(prefix) || known === path) continue
      const [first = '', ...rest] = known.slice(prefix.length).split('/')
      names.set(first, directory || rest.length > 0)
    }
    return [...names].map(([name, directory]) => ({ name, directory }))
  }

  async makeDirectory(path: string): Promise<void> {
    if (this.#directories.has(path)) return await turn()
    await this.#act('makeDirectory', path, () => {})
    for (let made = path; made !== '/'; made = dirname(made)) this.#directories.add(made)
  }

  async sizeBytes(path: string): Promise<number> {
    await turn()
    return this.#live.get(path)?.data.length ?? 0
  }

  async #act(name: string, path: string, half: () => void): Promise<void> {
    await turn()
    this.operations += 1
    try {
      this.before(this.operations, name, path)
    } catch (error) {
      if (error instanceof Cut) half()
      throw error
    }
    half()
  }

  #inode(path: string): Inode {
    const inode = this.#live.get(path)
    if (!inode) throw failure('ENOENT')
    return inode
  }
}

/** What Node throws for an errno. */
export function failure(code: string): Error {
  return Object.assign(new Error(`${code}: injected`), { code })
}

async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}
