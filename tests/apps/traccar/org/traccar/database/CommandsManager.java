package org.traccar.database;

import java.util.List;
import org.traccar.model.Command;

public class CommandsManager {
    public List<Command> readQueuedCommands(long deviceId, int count) {
        return List.of();
    }

    public void updateNotificationToken(long deviceId, String token) {
    }
}
