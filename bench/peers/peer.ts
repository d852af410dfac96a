/** A server that can be replaced while it is called, and what to call it with. */

export interface Peer {
  readonly name: string
  /** What a call is, and how it travels. */
  readonly protocol: string
  /** Makes one call. `again`: its connection was closed before it was answered, and it was sent once more on another. @throws when it failed */
  call(): Promise<'answered' | 'again'>
  /** Replaces what runs by its other version; resolves when the tool says that it is done. */
  replace(): Promise<void>
  close(): Promise<void>
}

/** Why a peer cannot be had here; the others go on. */
export class Missing extends Error {}
