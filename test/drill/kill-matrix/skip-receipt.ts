/** The drill's second sabotage: an agent that believes every receipt written and keeps none. Everything else is as it should be. */
import { type FileSystem, nodeFileSystem as real } from '../../../agent/store/file-system.ts'
import { crashing } from './crash-point.ts'

export const nodeFileSystem: FileSystem = crashing({
  ...real,
  rename: async (from, to) => {
    if (/\/receipts\/r-/.test(to)) await real.remove(from)
    else await real.rename(from, to)
  },
})
